"""Activations, feed-forward blocks and transformers for JAX and Flax."""
