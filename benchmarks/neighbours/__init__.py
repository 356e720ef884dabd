"""What we are compared with: one module a peer, run in that peer's own environment.

For peer_cost.py a module's ``load`` gives the peer's version and a function that hears calls, and
:func:`neighbours.child.serve` does the rest; for peers.py the function says who speaks, and
:func:`neighbours.answering.serve` does. The modules import nothing of each other's libraries.
"""
