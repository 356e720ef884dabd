"""One call between its gRPC stream and its session."""
