"""Gender by what could be installed instead: what peers.py is made of."""
