"""What an exported graph goes through until it is cheap to step.

their order is that of :mod:`model.quantize`.
"""
