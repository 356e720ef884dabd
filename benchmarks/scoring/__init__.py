"""How calls are planned, sent, judged and shown: what accuracy.py is made of."""
