"""The model of `training.py` from flax.nnx's own layers, trained as flax's guides do.

Same shape and batch as ours: RMSNorm, causal attention, a swiglu block, tied embeddings. Positions
are learned, because flax has no rotary ones; they cost less.
"""

import time
from functools import partial

import jax
import jax.numpy as jnp
import optax
from flax import nnx


class Block(nnx.Module):
    """x + attn(norm x), then x + ffn(norm x)."""

    def __init__(self, d, f, heads, *, rngs):
        self.norm1, self.norm2 = nnx.RMSNorm(d, rngs=rngs), nnx.RMSNorm(d, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(heads, d, use_bias=False, decode=False, rngs=rngs)
        linear = partial(nnx.Linear, use_bias=False, rngs=rngs)
        self.gate, self.up, self.down = linear(d, f), linear(d, f), linear(f, d)

    def __call__(self, x, mask):
        x = x + self.attention(self.norm1(x), mask=mask)
        h = self.norm2(x)
        return x + self.down(nnx.silu(self.gate(h)) * self.up(h))


class Decoder(nnx.Module):
    """Embedding, blocks, norm, the embedding's transpose."""

    def __init__(self, shape, *, rngs):
        d = shape["d_model"]
        self.tokens = nnx.Embed(shape["vocab"], d, rngs=rngs)
        self.positions = nnx.Embed(shape["context"], d, rngs=rngs)
        self.blocks = nnx.List(
            Block(d, shape["gated_d_ff"], shape["heads"], rngs=rngs) for _ in range(shape["layers"])
        )
        self.norm = nnx.RMSNorm(d, rngs=rngs)

    def __call__(self, tokens):
        x = self.tokens(tokens) + self.positions(jnp.arange(tokens.shape[1]))
        mask = nnx.make_causal_mask(tokens)
        for block in self.blocks:
            x = block(x, mask)
        return self.tokens.attend(self.norm(x))


class Loop:
    """Steps of AdamW, clipped at 1, a compiled call each, on windows drawn on the device."""

    def __init__(self, shape, data):
        self.shape, self.data = shape, data
        model = Decoder(shape, rngs=nnx.Rngs(0))
        rule = optax.chain(
            optax.clip_by_global_norm(1.0),
            optax.adamw(optax.cosine_decay_schedule(shape["learning_rate"], 10_000)),
        )
        optimizer = nnx.Optimizer(model, rule, wrt=nnx.Param)
        self.step = nnx.cached_partial(_step, model, optimizer)
        self.key, self.taken = jax.random.key(0), 0

    def train(self, steps):
        """Trains so many steps; returns the seconds and the last loss."""
        start = time.perf_counter()
        for _ in range(steps):
            self.taken += 1
            loss = self.step(*self.batch(self.data, jax.random.fold_in(self.key, self.taken)))
        return {"loss": float(loss), "seconds": time.perf_counter() - start}

    @partial(jax.jit, static_argnums=0)
    def batch(self, data, key):
        """Inputs and targets."""
        b, t = self.shape["batch"], self.shape["context"]
        starts = jax.random.randint(key, (b, 1), 0, data.size - t)
        windows = data[starts + jnp.arange(t + 1)].astype(jnp.int32)
        return windows[:, :-1], windows[:, 1:]


@nnx.jit
def _step(model, optimizer, tokens, targets):
    def objective(model):
        losses = optax.softmax_cross_entropy_with_integer_labels(model(tokens), targets)
        return losses.mean()

    loss, gradient = nnx.value_and_grad(objective)(model)
    optimizer.update(model, gradient)
    return loss
