"""Batched inference of the ONNX model, on a thread of its own, for all calls together."""
