"""Experiments on the method: the paper's Table 1 and its ablations."""
