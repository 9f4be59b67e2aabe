"""What layers of a stack may share or have of their own."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_models import random_arrays, random_model

import gelu_jax as gj
from gelu_jax.nn.stack import LayerKind, apply_layers, layer_values


def config(num_layers=3, **fields):
    block = gj.BlockConfig(
        gj.NormConfig(16, kind="rms"),
        gj.AttentionConfig(16, num_heads=2),
        gj.FeedForwardConfig(16, d_ff=24),
    )
    return gj.TransformerConfig(vocab_size=31, num_layers=num_layers, block=block, **fields)


def tokens_of(b, t):
    return jnp.asarray(np.random.default_rng(0).integers(0, 31, (b, t)))


@pytest.mark.parametrize("scan", [True, False])
def test_shared_layers_are_one_block_again_and_again(scan):
    """Values, and the gradient, which is the sum over the layers of a model of equal ones."""
    shared = random_model(gj.Transformer, config(shared_layers=True, scan_layers=scan))
    apart = random_model(gj.Transformer, config(scan_layers=scan))
    for name in ("embedding", "final_norm"):
        setattr(apart, name, getattr(shared, name))
    apart.layers = jax.tree.map(lambda leaf: jnp.repeat(leaf, 3, 0), shared.layers)
    assert {leaf.shape[0] for leaf in jax.tree.leaves(shared.layers)} == {1}

    @jax.jit
    def both(model):
        return jax.value_and_grad(lambda m: jnp.square(m(tokens_of(2, 5))).sum())(model)

    (one, sums), (other, each) = both(shared), both(apart)
    np.testing.assert_allclose(one, other, rtol=1e-5)
    summed = jax.tree.map(lambda leaf: leaf.sum(0, keepdims=True), each.layers)
    for a, b in zip(jax.tree.leaves(sums.layers), jax.tree.leaves(summed), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3 * abs(b).max())


def test_shared_layers_decode_as_they_compute():
    model = random_model(gj.Transformer, config(shared_layers=True))
    tokens = tokens_of(2, 5)
    logits, cache = model.decode(tokens, model.empty_cache(2, 5))
    assert cache.keys.shape[0] == 3
    np.testing.assert_allclose(logits, model(tokens), rtol=1e-5, atol=1e-5)


def test_narrow_embeddings_are_normed_and_mapped():
    c = config(embedding_size=6, embedding_norm=True, max_positions=5, has_head=False)
    model, tokens = random_model(gj.Transformer, c), tokens_of(2, 5)
    table, positions = model.embedding[...], model.positions[...]
    assert (table.shape, positions.shape) == ((31, 6), (5, 6))
    narrow = gj.rms_norm(table[tokens] + positions, model.embedding_norm.scale[...])
    expected = narrow @ model.embedding_projection.w[...] + model.embedding_projection.b[...]
    found = model.block_input(model.embed(tokens))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_a_layer_may_see_the_stream_itself():
    """The first of two layers; its norm gets no gradient."""
    kinds = (LayerKind(normed=False), LayerKind())
    model = random_model(gj.Transformer, config(num_layers=2, pattern=kinds))
    (x,) = random_arrays((1, 5, 16))
    values = layer_values(kinds, 2, 8)

    @jax.jit
    def expected(layers):
        first, second = (jax.tree.map(lambda leaf, i=i: leaf[i], layers) for i in (0, 1))
        y = x + first.attention(x)
        return second(y + first.feed_forward(first.feed_forward_norm(y)))

    @jax.jit
    @partial(jax.value_and_grad, has_aux=True)
    def found(layers):
        y, _ = apply_layers(layers, x, values=values, deterministic=True)
        return y.sum(), y

    (_, y), gradients = found(model.layers)
    np.testing.assert_allclose(y, expected(model.layers), rtol=1e-5, atol=1e-5)
    gradient = gradients.attention_norm.scale[...]
    assert (gradient[0] == 0).all()
    assert (gradient[1] != 0).any()


def test_what_each_part_adds_is_scaled():
    c = replace(config().block, layer_scale=True)
    block, (x,) = random_model(gj.Block, c), random_arrays((2, 5, 16))
    first, second = block.attention_scale[...], block.feed_forward_scale[...]
    y = x + first * block.attention(block.attention_norm(x))
    expected = y + second * block.feed_forward(block.feed_forward_norm(y))
    np.testing.assert_allclose(block(x), expected, rtol=1e-5, atol=1e-6)
