"""Comparison of networks, or of stored activations, layer by layer: a table, and pictures of it."""
