"""The server as processes: workers, addresses, health probe, environment."""
