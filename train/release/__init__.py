"""Release of a model: its model card."""
