"""How accurate the activations are: tried at every 16-bit input, beside those of JAX and torch."""
