"""Live calls at a server, and what they cost it: what the benchmarks of cost are made of."""
