"""What an exported graph goes through until it is cheap to step.

:mod:`model.quantize` says in which order.
"""
