"""A mixture of experts in an NNX model of your own, with its routers' losses in plain sight.

python examples/11_mixture_of_experts.py [steps]
"""

import sys

import jax
import jax.numpy as jnp
import optax
from flax import nnx

import gelu_jax as gj

steps = int(sys.argv[1]) if len(sys.argv) > 1 else 300


class Regressor(nnx.Module):
    """A model of your own with two mixtures: 8 experts, of which each token passes 2."""

    def __init__(self, *, rngs: nnx.Rngs):
        expert = gj.FeedForwardConfig(d_model=32, d_ff=24, variant="swiglu")
        config = gj.MoEConfig(expert, num_experts=8, experts_per_token=2)
        self.embed = nnx.Linear(2, 32, rngs=rngs)
        self.norm = nnx.RMSNorm(32, rngs=rngs)
        self.first, self.second = gj.MoE(config, rngs=rngs), gj.MoE(config, rngs=rngs)
        self.head = nnx.Linear(32, 1, rngs=rngs)

    def __call__(self, x):
        """The prediction, and what each router did: its losses, its load, its entropy."""
        h, routings = self.embed(x), []
        for mixture in (self.first, self.second):
            y, routing = mixture.with_routing(self.norm(h))
            h = h + y
            routings.append(routing)
        return self.head(h), routings


def loss(model, x, target, weight):
    y, routings = model(x)
    error = jnp.square(y - target).mean()
    balance = sum(routing.auxiliary_loss for routing in routings)  # 1 a layer where loads are even
    small_logits = sum(routing.z_loss for routing in routings)
    return error + weight * balance + 1e-3 * small_logits, (error, routings)


@nnx.jit
def train_step(model, optimizer, x, target, weight):
    gradient, seen = nnx.grad(loss, has_aux=True)(model, x, target, weight)
    optimizer.update(model, gradient)
    return seen


config = Regressor(rngs=nnx.Rngs(0)).first.config
print(f"{config.num_parameters:,} parameters in a mixture, {config.num_active_parameters:,} active")
x = jax.random.uniform(jax.random.key(0), (512, 2), minval=-3, maxval=3)
target = jnp.sin(2 * x[:, :1]) * jnp.sign(x[:, 1:])
for name, weight in {"left alone": 0.0, "balanced": 0.05}.items():
    model = Regressor(rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.adam(3e-3), wrt=nnx.Param)
    for _ in range(steps):
        error, routings = train_step(model, optimizer, x, target, weight)
    loads = [[f"{share:.0%}" for share in routing.load] for routing in routings]
    print(f"{name}: squared error {error:.4f}; load of each expert, layer by layer:")
    for load in loads:
        print("   ", *load)
