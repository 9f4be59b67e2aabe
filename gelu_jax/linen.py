"""Every module as a Linen module: the same config, the same parameter tree, the same bits.

Each name makes a Linen module from one of the NNX modules of `gelu_jax`.

Args:
  config: the module's config, such as `gelu_jax.FeedForwardConfig`.
  name: the module's name in its parent, as of every Linen module.
Returns:
  A Linen module: ``init(key, x)`` gives its variables, ``apply(variables, x)`` what the NNX module
  computes from the same parameters.

>>> import jax
>>> from gelu_jax import FeedForwardConfig, linen
>>> ffn, x = linen.FeedForward(FeedForwardConfig(d_model=4, d_ff=8)), jax.numpy.ones((2, 4))
>>> ffn.apply(ffn.init(jax.random.key(0), x), x).shape
(2, 4)
"""

from functools import partial

from flax.nnx.bridge import to_linen

from gelu_jax.nn import attention, block, feed_forward, mlp, norm, transformer

FeedForward = partial(to_linen, feed_forward.FeedForward)
"""`gelu_jax.FeedForward` in Linen."""

Norm = partial(to_linen, norm.Norm)
"""`gelu_jax.Norm` in Linen."""

Attention = partial(to_linen, attention.Attention)
"""`gelu_jax.Attention` in Linen."""

Block = partial(to_linen, block.Block)
"""`gelu_jax.Block` in Linen."""

Transformer = partial(to_linen, transformer.Transformer)
"""`gelu_jax.Transformer` in Linen."""

MLP = partial(to_linen, mlp.MLP)
"""`gelu_jax.MLP` in Linen."""
