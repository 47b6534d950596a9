"""Heads: classification, box offset and points, each with its target, loss and decoding."""
