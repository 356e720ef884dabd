"""The signal path of one call: pure Python and NumPy, no I/O."""
