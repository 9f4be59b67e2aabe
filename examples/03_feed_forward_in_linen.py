"""The same block in a Linen model of your own.

python examples/03_feed_forward_in_linen.py
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import nnx

import gelu_jax as gj

CONFIG = gj.FeedForwardConfig(d_model=64, d_ff=168, variant="swiglu")


class Layer(nn.Module):
    """A residual layer of your own, in Linen's style."""

    @nn.compact
    def __call__(self, x):
        return x + gj.linen.FeedForward(CONFIG, name="feed_forward")(nn.RMSNorm()(x))


x = jax.random.normal(jax.random.key(0), (2, 64))
layer = Layer()
variables = layer.init(jax.random.key(1), x)
print(jax.tree.map(jnp.shape, variables["params"]["feed_forward"]))
print("output", layer.apply(variables, x).shape)

# The parameter tree is that of the NNX module, so weights move from one to the other.
module = gj.FeedForward(CONFIG, rngs=nnx.Rngs(2))
params = nnx.to_pure_dict(nnx.state(module))
same = jnp.array_equal(module(x), gj.linen.FeedForward(CONFIG).apply({"params": params}, x))
print("equal to the NNX module, bit for bit:", same)
