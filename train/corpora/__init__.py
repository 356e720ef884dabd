"""Corpora: what reads each of them, and what becomes of their utterances."""
