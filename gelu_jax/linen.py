"""Every module again as a Linen module: the same config, the same parameter tree, equal bits.

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
Norm = partial(to_linen, norm.Norm)
Attention = partial(to_linen, attention.Attention)
Block = partial(to_linen, block.Block)
Transformer = partial(to_linen, transformer.Transformer)
MLP = partial(to_linen, mlp.MLP)
