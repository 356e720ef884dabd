"""Who may come in, and what is secret: TLS, tokens, identities, keys."""
