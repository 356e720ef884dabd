"""Half an hour of every kind of caller: what soak.py is made of."""
