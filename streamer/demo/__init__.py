"""The demo: a server, a call, running predictions."""
