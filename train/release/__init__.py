"""Release of a trained model: its ONNX file and its model card."""
