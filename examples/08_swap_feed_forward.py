"""Our feed-forward block in a vision transformer written with flax's own layers.

    python examples/08_swap_feed_forward.py

The model below does not use gelu_jax. Its GELU blocks are replaced twice: by the same function,
which keeps every weight and the output, and by SwiGLU, which keeps the weights that fit and reports
the others.
"""  # fmt: skip

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from sklearn.datasets import load_digits

import gelu_jax as gj


class EncoderBlock(nnx.Module):
    def __init__(self, width: int, rngs: nnx.Rngs):
        self.norm1 = nnx.LayerNorm(width, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(4, width, decode=False, rngs=rngs)
        self.norm2 = nnx.LayerNorm(width, rngs=rngs)
        self.mlp = nnx.Sequential(
            nnx.Linear(width, 4 * width, rngs=rngs),
            nnx.gelu,
            nnx.Linear(4 * width, width, rngs=rngs),
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class TinyViT(nnx.Module):
    def __init__(self, width: int, rngs: nnx.Rngs):
        self.embed = nnx.Linear(4, width, rngs=rngs)
        self.places = nnx.Param(0.02 * jax.random.normal(rngs.params(), (16, width)))
        self.blocks = nnx.List([EncoderBlock(width, rngs) for _ in range(2)])
        self.head = nnx.Linear(width, 10, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        patches = images.reshape(-1, 4, 2, 4, 2).swapaxes(2, 3).reshape(-1, 16, 4)
        x = self.embed(patches) + self.places[...]
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(1))


def fit(model: TinyViT, images: jax.Array, labels: jax.Array, steps: int) -> float:
    optimizer = nnx.Optimizer(model, optax.adamw(1e-3), wrt=nnx.Param)

    @nnx.jit
    def step(model: TinyViT, optimizer: nnx.Optimizer[TinyViT]) -> jax.Array:
        def loss(model: TinyViT) -> jax.Array:
            logits = model(images)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        value, grads = nnx.value_and_grad(loss)(model)
        optimizer.update(model, grads)
        return value

    return [float(step(model, optimizer)) for _ in range(steps)][-1]


digits = load_digits()
images, labels = jnp.asarray(digits.data[:512]) / 16, jnp.asarray(digits.target[:512])
model = TinyViT(32, nnx.Rngs(0))
print(f"flax's layers, 30 steps: loss {fit(model, images, labels, 30):.3f}")

layers = {"where": nnx.Sequential, "w_in": ["layers.0"], "w_out": "layers.2"}
same = nnx.clone(model)
for replaced in gj.replace_feed_forward(same, **layers, variant="gelu_tanh", rngs=nnx.Rngs(1)):
    print(replaced)
print(f"the same function: outputs differ by {jnp.abs(same(images) - model(images)).max():.0e}")

for replaced in gj.replace_feed_forward(model, **layers, variant="swiglu", rngs=nnx.Rngs(1)):
    print(replaced)
print(f"SwiGLU, 30 steps more: loss {fit(model, images, labels, 30):.3f}")
