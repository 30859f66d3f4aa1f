"""Batches that grow in mid-run: ways to choose them, the loop, and its records."""
