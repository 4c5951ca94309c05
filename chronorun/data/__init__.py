"""Corpora, tokenizers, token cache and batches."""
