"""Checkpoints: a folder of safetensors and JSON under a manifest with hashes."""
