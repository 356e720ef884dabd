"""How a server lives: processes and addresses, load, metrics, self-test."""
