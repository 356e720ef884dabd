"""TLS, tokens, identities of callers, and encryption of checkpoints."""
