"""The networks: front end, streamable encoders, task heads and their export to one ONNX file.

Imports neither ``streamer`` nor ``train``.
"""
