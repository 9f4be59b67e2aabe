"""The feed-forward block in an NNX model of your own.

python examples/02_feed_forward_in_nnx.py
"""

import jax
import jax.numpy as jnp
import optax
from flax import nnx

import gelu_jax as gj


class Regressor(nnx.Module):
    """A model of your own: flax's layers around one of our blocks."""

    def __init__(self, variant, *, rngs: nnx.Rngs):
        width = gj.matched_width(256, variant, multiple_of=8)  # equal parameters for every variant
        self.embed = nnx.Linear(1, 64, rngs=rngs)
        self.norm = nnx.RMSNorm(64, rngs=rngs)
        config = gj.FeedForwardConfig(d_model=64, d_ff=width, variant=variant)
        self.feed_forward = gj.FeedForward(config, rngs=rngs)
        self.head = nnx.Linear(64, 1, rngs=rngs)

    def __call__(self, x):
        h = self.embed(x)
        return self.head(h + self.feed_forward(self.norm(h)))


def squared_error(model, x, y):
    return jnp.square(model(x) - y).mean()


@nnx.jit
def train_step(model, optimizer, x, y):
    loss, gradient = nnx.value_and_grad(squared_error)(model, x, y)
    optimizer.update(model, gradient)
    return loss


def sin_of_square(x):
    """An activation of your own works like any other."""
    return jnp.sin(x * x)


x = jnp.linspace(-3, 3, 256)[:, None]
for variant in ("relu", "swiglu", (sin_of_square, "identity")):
    model = Regressor(variant, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.adam(3e-3), wrt=nnx.Param)
    for _ in range(200):
        loss = train_step(model, optimizer, x, jnp.sin(3 * x))
    size = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
    print(f"{variant!s:40.40s} {size:6d} parameters, final squared error {loss:.5f}")
