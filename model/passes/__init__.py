"""What an exported graph goes through until it is cheap to step.

:mod:`model.quantise` says in which order.
"""
