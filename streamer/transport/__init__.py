"""gRPC on the wire: streams, trunks, messages. Nothing of a call's logic."""
