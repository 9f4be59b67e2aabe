"""Modules whose values numpy draws: making one compiles nothing."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx


def random_model(module, config, *, std=0.3, seed=0):
    """The module of a config, every parameter drawn from N(0, std²)."""
    rng = np.random.default_rng(seed)
    empty = nnx.eval_shape(lambda: module(config, rngs=nnx.Rngs(0)))
    return jax.tree.map(lambda p: jnp.asarray(rng.normal(0, std, p.shape), p.dtype), empty)


def random_arrays(*shapes, seed=0):
    """One standard normal float32 array per shape."""
    rng = np.random.default_rng(seed)
    return [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes]
