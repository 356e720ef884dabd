"""Checkpoints: calls that survive their server."""
