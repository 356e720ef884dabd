"""What peer_cost.py compares us with: one module a peer, run in that peer's own environment.

A module's ``load`` makes the peer ready and returns its version and a function that hears calls;
:func:`peers.child.serve` does the rest. The modules import nothing of each other's libraries.
"""
