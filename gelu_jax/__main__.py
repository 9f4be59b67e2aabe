"""``python -m gelu_jax`` is ``gelu-jax``."""

from gelu_jax.cli import main

main()
