"""The paper's Table 1: what table1.py is made of."""
