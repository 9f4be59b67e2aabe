"""W_out by the hidden units that are not zero, beside the dense product."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from random_models import random_arrays, random_model

import gelu_jax as gj
from gelu_jax.nn.decoding import generate

D, F = 16, 64


def block_with(active_units, num_active, variant="relu", **options):
    """A block of which the first units are active for x = 1, and unread rows of W_out are NaN."""
    gate = jnp.where(jnp.arange(F) < num_active, 0.1, -0.1) * jnp.ones((D, F))
    up, out = random_arrays((D, F), (F, D))
    w_in = (gate,) if variant == "relu" else (gate, up)
    poisoned = jnp.where(jnp.arange(F)[:, None] < num_active, out, jnp.nan)
    call = {"variant": variant, "active_units": active_units, **options}
    return (lambda x, w_out: gj.feed_forward(x, w_in, w_out, **call)), out, poisoned


CASES = [
    ("relu", (D,), "float32"),
    ("relu", (1, D), "bfloat16"),
    ("reglu_squared", (1, 1, D), "float32"),
]


@pytest.mark.parametrize(("variant", "shape", "dtype"), CASES)
def test_rows_of_units_that_are_zero_are_not_read(variant, shape, dtype):
    """NaN in a row that is read would be NaN in the result: 0 · NaN = NaN."""
    x = jnp.ones(shape, dtype)
    tolerance = 1e-5 if dtype == "float32" else 1e-2

    def outcomes(num_active):
        block, out, poisoned = block_with(8, num_active, variant)
        dense, *_ = block_with(None, num_active, variant)
        out, poisoned = out.astype(dtype), poisoned.astype(dtype)
        return block(x, poisoned), dense(x, out), dense(x, poisoned)

    for y, want, lost in map(jax.jit(outcomes), (0, 7, 8)):
        assert (y.dtype, y.shape) == (want.dtype, want.shape)
        np.testing.assert_allclose(*np.float64((y, want)), rtol=tolerance, atol=tolerance)
        assert np.isnan(lost).all()


@pytest.mark.parametrize(("rows", "num_active"), [(1, 9), (1, F), (2, 3), (0, 3)])
def test_more_units_or_tokens_take_the_dense_product(rows, num_active):
    block, out, _ = block_with(8, num_active)
    dense, *_ = block_with(None, num_active)
    x = jnp.ones((rows, D))
    np.testing.assert_array_equal(jax.jit(block)(x, out), jax.jit(dense)(x, out))


def test_units_that_are_nan_count_as_active():
    block, out, _ = block_with(8, 3)
    assert np.isnan(block(jnp.full((1, D), jnp.nan), out)).all()


def test_derivatives_are_those_of_the_dense_product():
    """Also by hidden units that are zero because their second factor is: u = 0, g > 0."""
    w_gate, w_up, out = random_arrays((D, F), (D, F), (F, D))
    w_up = w_up.at[:, ::2].set(0)

    def loss(active_units):
        def of(x, w_in, w_out):
            y = gj.feed_forward(x, w_in, w_out, variant="reglu", active_units=active_units)
            return (y**2).sum()

        return of

    arguments = jnp.ones((1, D)), (w_gate, w_up), out
    for order in (1, 2):
        grads = [loss(k) for k in (40, None)]
        for _ in range(order):
            grads = [jax.grad(lambda *a, f=f: sum(g.sum() for g in jax.tree.leaves(f(*a))),
                              argnums=(0, 1, 2)) for f in grads]  # fmt: skip
        ours, dense = (jax.jit(f)(*arguments) for f in grads)
        for left, right in zip(jax.tree.leaves(ours), jax.tree.leaves(dense), strict=True):
            np.testing.assert_allclose(left, right, rtol=2e-4, atol=1e-3 * np.abs(right).max())


def test_a_model_generates_the_same_tokens():
    ffn = gj.FeedForwardConfig(D, F, "relu_squared")
    block = gj.BlockConfig(gj.NormConfig(D), gj.AttentionConfig(D, num_heads=2), ffn)
    config = gj.TransformerConfig(vocab_size=31, num_layers=2, block=block, max_positions=20)
    model = random_model(gj.Transformer, config)
    prompt = jnp.array([[3, 1, 4, 1, 5]])
    want = generate(model, prompt, 12)
    for _, module in nnx.iter_modules(model):
        if isinstance(module, gj.FeedForward):
            module.config = replace(module.config, active_units=48)
    np.testing.assert_array_equal(generate(model, prompt, 12), want)
    text = str(jax.make_jaxpr(lambda m, t: m.decode(t, m.empty_cache(1, 1)))(model, prompt[:, :1]))
    assert "platform_index" in text


def test_bad_input():
    with pytest.raises(gj.ConfigError, match="active_units = 0: must be above 0"):
        gj.FeedForwardConfig(D, F, "relu", active_units=0)
    with pytest.raises(gj.ConfigError, match=r"feed_forward\.active_units = 8: must be None"):
        gj.MoEConfig(gj.FeedForwardConfig(D, F, "relu", active_units=8), 4, 2)
