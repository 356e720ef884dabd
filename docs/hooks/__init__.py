"""Scripts that MkDocs runs when it builds the site."""
