"""What layers of a stack may share or have of their own."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st
from random_models import random_arrays, random_model

import gelu_jax as gj
from gelu_jax.nn.routers import SigmoidRouterConfig
from gelu_jax.nn.stack import LayerKind, apply_layers, layer_values, one_layer, periods


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


DENSE = gj.FeedForwardConfig(16, d_ff=24)
SPARSE = gj.MoEConfig(
    gj.FeedForwardConfig(16, d_ff=8, variant="swiglu"),
    num_experts=4,
    experts_per_token=2,
    router=SigmoidRouterConfig(),
    auxiliary_loss=0.1,
    bias_update_rate=0.01,
)


def mixed(sparse, **fields):
    """A stack whose sparse layers are given, with a window in every layer but the last."""
    n = len(sparse)
    kinds = tuple(
        LayerKind(None if i == n - 1 else 3, gj.RotaryConfig(), feed_forward=SPARSE if s else None)
        for i, s in enumerate(sparse)
    )
    return config(num_layers=n, pattern=kinds, **fields)


def in_turn(model, tokens):
    """The states of a stack, one layer after another, and its routing."""
    x, found = model.block_input(model.embed(tokens)), []
    for i in range(model.config.num_layers):
        own = jax.tree.map(lambda leaf, i=i: leaf[i], model.layer_values)
        x, _, routing = one_layer(model.layers, i).attend_with_routing(x, values=own)
        found += [] if routing is None else [routing]
    logits = model.logits(model.final_hidden(x))
    return logits, jax.tree.map(lambda *leaves: jnp.stack(leaves), *found)


@pytest.mark.parametrize(("sparse", "scan"), [("01011", True), ("0110", False)])
def test_dense_and_sparse_layers_mix(sparse, scan):
    """Values, routing and gradients are those of one layer after another."""
    model = random_model(gj.Transformer, mixed([s == "1" for s in sparse], scan_layers=scan))
    tokens = tokens_of(2, 5)

    @jax.jit
    def both(model):
        def loss(apply, model):
            logits, routing = apply(model)
            return jnp.square(logits).sum() + routing.loss.sum(), (logits, routing)

        ways = (lambda m: m.with_routing(tokens)), (lambda m: in_turn(m, tokens))
        return [jax.value_and_grad(partial(loss, way), has_aux=True)(model) for way in ways]

    found, expected = both(model)
    assert found[0][1][1].load.shape == (sparse.count("1"), 4)
    scale = max(abs(leaf).max() for leaf in jax.tree.leaves(expected[1]))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * scale)


def test_mixed_layers_decode_as_they_compute():
    model, tokens = random_model(gj.Transformer, mixed([False, True])), tokens_of(2, 5)
    logits, cache = model.decode(tokens[:, :4], model.empty_cache(2, 5))
    last, cache = model.decode(tokens[:, 4:], cache)
    assert cache.keys.shape[0] == 2
    found = jnp.concatenate([logits, last], 1)
    np.testing.assert_allclose(found, model(tokens), rtol=1e-4, atol=1e-5)
    states = model.states(tokens)
    logits = model.logits(model.final_hidden(states[-1]))
    np.testing.assert_allclose(logits, model(tokens), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("sparse", "blocks"), [("0" * 3 + "1" * 58, 2), ("01" * 24, 2)])
def test_a_mixed_stack_compiles_each_layer_of_a_period_once(sparse, blocks):
    model = nnx.eval_shape(
        lambda: gj.Transformer(mixed([s == "1" for s in sparse]), rngs=nnx.Rngs(0))
    )
    program = jax.make_jaxpr(lambda m, t: m(t))(model, tokens_of(1, 4))
    assert str(program).count("rsqrt") == 2 * blocks + 1  # two norms in a block, one at the end


@given(st.lists(st.integers(0, 2), min_size=1, max_size=12))
def test_periods_are_the_stack_in_order(kinds):
    runs = periods(kinds)
    made = [kinds[r.first : r.first + r.length] * r.repeats for r in runs]
    assert [kind for run in made for kind in run] == kinds
    assert [r.first for r in runs] == [sum(map(len, made[:i])) for i in range(len(runs))]
    assert sum(r.length for r in runs) <= len(kinds)


def test_layers_of_a_mixed_stack_start_as_those_of_a_plain_one():
    """Each layer draws from its own key: dense layers of both have the same values."""
    plain = gj.Transformer(config(2), rngs=nnx.Rngs(0)).layers
    both = gj.Transformer(mixed([False, True]), rngs=nnx.Rngs(0)).layers
    np.testing.assert_array_equal(both.attention.w_query[...], plain.attention.w_query[...])
    dense = both.feed_forward.kind_0
    np.testing.assert_array_equal(dense.w_out[...], plain.feed_forward.w_out[...][:1])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"feed_forward": gj.FeedForwardConfig(8, d_ff=4)}, r"pattern\[1\]\.feed_forward\.d_model"),
        ({"feed_forward": replace(SPARSE, num_experts=8)}, r"pattern\[1\]\.feed_forward\.num_exp"),
    ],
)
def test_a_wrong_pattern_is_refused(fields, message):
    kinds = LayerKind(feed_forward=SPARSE), LayerKind(**fields)
    with pytest.raises(gj.ConfigError, match=message):
        config(pattern=kinds)
    with pytest.raises(gj.ConfigError, match="shared_layers = True: needs one"):
        config(pattern=(LayerKind(feed_forward=SPARSE), LayerKind()), shared_layers=True)
