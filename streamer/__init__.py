"""The streaming server and its client. Knows an ONNX file, nothing of torch or of training."""
