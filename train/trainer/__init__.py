"""A run: flags, devices, and the loop that can be stopped anywhere."""
