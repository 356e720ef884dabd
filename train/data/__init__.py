"""From manifests or shards to batches of telephone speech."""
