"""Activations: one function, every spelling, and a gradient that is finite where others are not.

python examples/01_activations.py
"""

import jax
import jax.numpy as jnp

import gelu_jax as gj

# Pure functions on arrays of any floating dtype, under jit, grad, vmap and scan.
x = jnp.array([-4.0, -1.0, 0.0, 1.0], jnp.bfloat16)
print("gelu          ", gj.gelu(x))
print("jax.nn.gelu   ", jax.nn.gelu(x), "(its default is the tanh form, computed in bfloat16)")

# Every name that checkpoints and configs use refers to one of them.
for name in ("gelu_new", "quick_gelu", "swish", "relu2"):
    print(f"{name:14s}→ {gj.activation(name).__name__}")

# The derivative is right where a formula written in half precision overflows.
large = jnp.float16(200.0)
print(
    "gradient at 200 in float16:",
    jax.grad(gj.gelu_tanh)(large),
    "and",
    jax.grad(jax.nn.gelu)(large),
)

# Higher derivatives and forward mode work as for any JAX function.
print("second derivative at 0.5:  ", jax.grad(jax.grad(gj.gelu))(0.5))
