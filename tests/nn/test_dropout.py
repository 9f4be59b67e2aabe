"""Dropout in flax's call convention, beside flax's own `nnx.Dropout`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import gelu_jax as gj

CONFIG = gj.FeedForwardConfig(8, 64, "relu", dropout_rate=0.5)
X = jax.random.normal(jax.random.key(3), (4, 8))
BLOCK = gj.BlockConfig(gj.NormConfig(8), gj.AttentionConfig(8, num_heads=2), CONFIG)
STACK = gj.TransformerConfig(11, num_layers=2, block=BLOCK)
TOKENS = jnp.arange(6).reshape(2, 3)
MODULES = {
    "FeedForward": (CONFIG, X),
    "Block": (BLOCK, X[None]),
    "Transformer": (STACK, TOKENS),
    "MLP": (gj.MLPConfig(8, 3, num_layers=2, d_ff=8, dropout_rate=0.5), X),
}


class Theirs(nnx.Module):
    """The same block of flax's layers."""

    def __init__(self, ours):
        self.w_in, self.w_out = ours.w_in[0][...], ours.w_out[...]
        self.dropout = nnx.Dropout(0.5)

    def __call__(self, x, **mode):
        return self.dropout(jax.nn.relu(x @ self.w_in), **mode) @ self.w_out


@pytest.fixture(scope="module")
def block():
    return gj.FeedForward(CONFIG, rngs=nnx.Rngs(0))


def calls():
    """Ways to call a layer, and whether dropout is on."""
    return {
        "deterministic": ({"deterministic": True, "rngs": nnx.Rngs(dropout=1)}, False),
        "streams": ({"rngs": nnx.Rngs(dropout=1)}, True),
        "default stream": ({"rngs": nnx.Rngs(1)}, True),
        "one stream": ({"rngs": nnx.Rngs(dropout=1).dropout}, True),
        "key": ({"rngs": jax.random.key(1), "deterministic": False}, True),
    }


@pytest.mark.parametrize("way", calls())
def test_a_call_does_what_it_does_in_flax(block, way):
    """The masks are flax's own, entry for entry."""
    (mode, on), (same, _) = calls()[way], calls()[way]
    y, theirs = block(X, **mode), Theirs(block)(X, **same)
    np.testing.assert_allclose(y, theirs, atol=1e-6)
    assert bool(jnp.allclose(y, block(X, True))) != on


def test_streams_advance_only_where_dropout_is_on(block):
    rngs = nnx.Rngs(dropout=1)
    block(X, deterministic=True, rngs=rngs)
    assert rngs.dropout.count[...] == 0
    first, second = block(X, rngs=rngs), block(X, rngs=rngs)
    assert jnp.abs(first - second).max() > 0.1


@pytest.mark.parametrize("name", MODULES)
def test_without_a_key_training_raises(name):
    """Abstractly: what raises is the call, not what it computes."""
    config, x = MODULES[name]
    module = nnx.eval_shape(lambda: getattr(gj, name)(config, rngs=nnx.Rngs(0)))
    call = getattr(gj, name).__call__

    def shape(**mode):
        return jax.eval_shape(lambda m, x: call(m, x, **mode), module, x).shape

    with pytest.raises(ValueError, match=r"dropout_rate = 0.5: training needs a key"):
        shape()
    with pytest.raises(ValueError, match="deterministic=True"):
        shape(deterministic=False)
    expected = shape(deterministic=True)
    assert shape(dropout_key=jax.random.key(0)) == expected
    module.eval()
    assert shape() == expected
    with pytest.raises(ValueError, match="needs a key"):
        shape(deterministic=False)
    module.train()
    with pytest.raises(ValueError, match="needs a key"):
        shape()


def test_a_view_leaves_the_module_as_it_is(block):
    view = nnx.view(block, deterministic=True)
    np.testing.assert_array_equal(view(X), block(X, True))
    with pytest.raises(ValueError, match="needs a key"):
        block(X)


def test_eval_reaches_into_a_persons_own_model():
    class Model(nnx.Module):
        def __init__(self, rngs):
            self.norm = nnx.LayerNorm(8, rngs=rngs)
            self.block = gj.FeedForward(CONFIG, rngs=rngs)
            self.dropout = nnx.Dropout(0.5)

        def __call__(self, x, rngs=None):
            return self.dropout(self.block(self.norm(x), rngs=rngs), rngs=rngs)

    model = Model(nnx.Rngs(0))
    model.eval()
    expected = model.block(model.norm(X), True)
    np.testing.assert_array_equal(model(X), expected)
    model.train()
    assert jnp.abs(model(X, nnx.Rngs(0)) - expected).max() > 0.1


def test_decoding_never_drops():
    model = nnx.eval_shape(lambda: gj.Transformer(STACK, rngs=nnx.Rngs(0)))

    def decode(model, tokens):
        return model.decode(tokens, model.empty_cache(2, 3))[0]

    assert jax.eval_shape(decode, model, TOKENS).shape == (2, 3, 11)
