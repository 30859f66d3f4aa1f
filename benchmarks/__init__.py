"""Benchmarks of optax_lena: data, models, recipes, methods, one training loop."""
