"""Decoding: the cache against the full forward, padding, and the laws of sampling."""

from dataclasses import replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_models import random_model

import gelu_jax as gj
from gelu_jax.nn import stack
from gelu_jax.nn.decoding import generate, sample
from gelu_jax.nn.norm import NormConfig
from gelu_jax.nn.position import LongRopeScaling, RotaryConfig
from gelu_jax.nn.stack import LayerKind, Unstacked


@cache
def transformer(kind="rotary, grouped, window"):
    return random_model(gj.Transformer, config(**KINDS[kind]))


def config(style="pre_norm", *, window=None, kv_heads=None, rotary=True, scan=True, tied=True):
    norm = NormConfig(16, use_bias=True)
    attention = gj.AttentionConfig(
        16,
        num_heads=4,
        num_kv_heads=kv_heads,
        window=window,
        rotary=RotaryConfig() if rotary else None,
    )
    block = gj.BlockConfig(norm, attention, gj.FeedForwardConfig(16, 24, "swiglu"), style=style)
    positions = None if rotary else 24
    return gj.TransformerConfig(
        29, 2, block, max_positions=positions, tie_embeddings=tied, scan_layers=scan
    )


KINDS = {
    "rotary, grouped, window": {"window": 3, "kv_heads": 2},
    "learned positions": {"rotary": False},
    "post-norm": {"style": "post_norm", "rotary": False},
    "parallel, multi-query, unrolled": {"style": "parallel", "kv_heads": 1, "scan": False},
    "post-norm, rotary, untied": {"style": "post_norm", "tied": False},
    "parallel, learned positions": {"style": "parallel", "rotary": False},
}
PADDED = list(KINDS)[:4]
TOKENS = jax.random.randint(jax.random.key(1), (2, 12), 0, 29)


@pytest.mark.parametrize("kind", KINDS)
def test_prefill_and_steps_equal_the_full_forward(kind):
    @jax.jit
    def both(model, tokens):
        def step(cache, token):
            logits, cache = model.decode(token[:, None], cache)
            return cache, logits[:, 0]

        logits, cache = model.decode(tokens[:, :5], model.empty_cache(2, 12))
        _, rest = jax.lax.scan(step, cache, tokens[:, 5:].T)
        return jnp.concatenate([logits, rest.swapaxes(0, 1)], 1), model(tokens)

    decoded, full = both(transformer(kind), TOKENS)
    np.testing.assert_allclose(decoded, full, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", PADDED)
def test_a_row_padded_on_the_left_decodes_as_it_does_alone(kind):
    model = transformer(kind)
    continued = jax.jit(lambda m, t, mask: generate(m, t, 7, mask=mask))
    padded = TOKENS.at[1, :5].set(0)
    mask = jnp.ones((2, 12), bool).at[1, :5].set(False)
    together = continued(model, padded, mask)
    alone = jax.jit(lambda m, t: generate(m, t, 7))(model, TOKENS[1:, 5:])
    np.testing.assert_array_equal(together[1], alone[0])


def test_what_stands_at_padding_changes_nothing():
    model = transformer()
    mask = jnp.ones((2, 12), bool).at[1, :5].set(False)
    forward = jax.jit(lambda m, t: (m(t, mask=mask), generate(m, t, 4, mask=mask)))
    one, two = (forward(model, TOKENS.at[1, :5].set(filler)) for filler in (0, 17))
    np.testing.assert_array_equal(one[0][mask], two[0][mask])
    np.testing.assert_array_equal(one[1], two[1])


def test_the_end_token_repeats_itself_and_other_rows_go_on():
    model = transformer()
    plain = np.asarray(jax.jit(lambda m: generate(m, TOKENS, 8))(model))
    end = int(plain[0, 2])
    ended = np.asarray(jax.jit(lambda m: generate(m, TOKENS, 8, end_token=end))(model))
    for before, after in zip(plain, ended, strict=True):
        stop = np.flatnonzero(before == end)
        stop = stop[0] if stop.size else len(before)
        np.testing.assert_array_equal(after[:stop], before[:stop])
        assert (after[stop:] == end).all()


def test_sampling_is_a_function_of_its_key():
    model = transformer()
    drawn = jax.jit(lambda key: generate(model, TOKENS, 8, key=key, temperature=2.0))
    np.testing.assert_array_equal(drawn(jax.random.key(0)), drawn(jax.random.key(0)))
    assert (drawn(jax.random.key(0)) != drawn(jax.random.key(1))).any()


def test_generation_outside_of_jit_compiles_once():
    class Counting(gj.Transformer):
        traced = 0

        def decode(self, *args, **kwargs):
            Counting.traced += 1
            return super().decode(*args, **kwargs)

    one, other = (random_model(Counting, config(), seed=seed) for seed in range(2))
    run = partial(generate, tokens=TOKENS, num_tokens=3)
    first = run(one, key=jax.random.key(0), temperature=2.0, top_p=0.9, end_token=1)
    traced = Counting.traced
    again = run(one, key=jax.random.key(0), temperature=2.0, top_p=0.9, end_token=1)
    np.testing.assert_array_equal(first, again)
    run(other, key=jax.random.key(1), temperature=0.5, top_p=0.5, end_token=2)
    assert 0 < traced == Counting.traced
    assert (run(one) != run(other)).any()  # greedy: another program, of other weights
    inside = jax.jit(lambda m: generate(m, TOKENS, 3))(one)
    np.testing.assert_array_equal(run(one), inside)


def test_one_token_needs_no_step():
    model = transformer()
    one, three = jax.jit(lambda m: (generate(m, TOKENS, 1), generate(m, TOKENS, 3)))(model)
    np.testing.assert_array_equal(one, three[:, :1])


def longrope(*short_lengths):
    """A model in whose layers the rotation changes beyond these lengths, in turn."""
    scalings = [LongRopeScaling((1.0, 1.5), (3.0, 9.0), n, factor=4.0) for n in short_lengths]
    rotations = [RotaryConfig(100.0, scaling=scaling) for scaling in scalings]
    plain = config(kv_heads=2)
    attention = replace(plain.block.attention, rotary=rotations[0])
    kinds = tuple(LayerKind(None, rotary) for rotary in rotations)
    block = replace(plain.block, attention=attention)
    pattern = kinds if len(kinds) > 1 else ()
    return random_model(gj.Transformer, replace(plain, block=block, pattern=pattern))


@pytest.mark.parametrize("short_lengths", [(14,), (9, 17)], ids=["one", "two"])
def test_a_sequence_that_outgrows_its_rotation_is_computed_anew(short_lengths):
    """Each token of each row is what all tokens before it give without a cache, each row alone."""
    model, n = longrope(*short_lengths), 9
    mask = jnp.ones((2, 12), bool).at[1, :5].set(False)
    found = generate(model, TOKENS, n, mask=mask)
    rows = jnp.concatenate([TOKENS, found], 1)
    for first, row in zip((0, 5), rows, strict=True):
        alone = jax.jit(lambda m, row: [m(row[None, :end])[0, -1] for end in range(7, len(row))])
        expected = jnp.array(alone(model, row[first:])).argmax(-1)[-n:]
        np.testing.assert_array_equal(row[-n:], expected)
    whole = generate(model, TOKENS, n)  # a prompt without a mask needs no check of its length
    np.testing.assert_array_equal(whole[0], found[0])


def test_a_cache_whose_tokens_are_not_known_is_not_computed_anew():
    model = longrope(14)
    _, cache = model.decode(TOKENS, model.empty_cache(2, 20))
    generate(model, TOKENS[:, :1], 2, cache=cache)  # 14 tokens: the last is not decoded
    message = "cache = '12 tokens': rotary frequencies change beyond 14 tokens"
    with pytest.raises(gj.ConfigError, match=message):
        generate(model, TOKENS[:, :1], 3, cache=cache)
    empty = generate(model, TOKENS, 6, cache=model.empty_cache(2, 20))
    np.testing.assert_array_equal(empty, generate(model, TOKENS, 6))


LOGITS = jnp.log(jnp.array([0.5, 0.25, 0.125, 0.0625, 0.0625]))


FREQUENCIES = [
    ({}, [0.5, 0.25, 0.125, 0.0625, 0.0625]),
    ({"temperature": 0.5}, [0.7297, 0.1824, 0.0456, 0.0114, 0.0114]),
    ({"top_k": 2}, [2 / 3, 1 / 3, 0, 0, 0]),
    ({"top_k": 99}, [0.5, 0.25, 0.125, 0.0625, 0.0625]),
    ({"top_p": 0.5}, [1, 0, 0, 0, 0]),
    ({"top_p": 0.51}, [2 / 3, 1 / 3, 0, 0, 0]),
    ({"top_p": 1.0}, [0.5, 0.25, 0.125, 0.0625, 0.0625]),
    ({"top_p": 1e-9}, [1, 0, 0, 0, 0]),
    ({"top_k": 3, "top_p": 0.7}, [2 / 3, 1 / 3, 0, 0, 0]),
]
DRAWS = 4000


@pytest.fixture(scope="module")
def draws():
    rows, key = jnp.broadcast_to(LOGITS, (DRAWS, 5)), jax.random.key(3)
    every = [options for options, _ in FREQUENCIES]
    return jax.jit(lambda: [sample(rows, key, **options) for options in every])()


@pytest.mark.parametrize("case", range(len(FREQUENCIES)), ids=[str(o) for o, _ in FREQUENCIES])
def test_sampled_frequencies(draws, case):
    """4000 draws: five standard deviations of a frequency are below 0.04."""
    found, expected = np.bincount(draws[case], minlength=5) / DRAWS, FREQUENCIES[case][1]
    np.testing.assert_allclose(found, expected, atol=0.04)
    assert (found[np.array(expected) == 0] == 0).all()


@settings(max_examples=60)
@given(
    logits=st.lists(st.integers(-80, 80).map(lambda n: n / 8), min_size=6, max_size=6),
    top_k=st.integers(1, 6),
    top_p=st.floats(0.01, 1.0),
)
def test_a_sampled_token_is_among_the_likeliest(logits, top_k, top_p):
    row = np.array(logits, np.float32)
    token = int(drawn(jnp.asarray(row)[None], top_k, top_p)[0])
    assert (row > row[token]).sum() < top_k
    ordered = np.sort(row)[::-1].astype(np.float64)
    kept = ordered[ordered >= ordered[top_k - 1]]
    weights = np.exp(kept - kept[0])
    more_likely = weights[kept > row[token]].sum() / weights.sum()
    assert more_likely < top_p + 1e-5


def drawn(row, top_k, top_p):
    return sample(row, jax.random.key(0), top_k=top_k, top_p=top_p)


@pytest.mark.parametrize(
    "options", [{"temperature": 0.0}, {"top_k": 0}, {"top_p": 0.0}, {"top_p": 1.5}]
)
def test_wrong_options_are_named(options):
    with pytest.raises(gj.ConfigError, match=next(iter(options))):
        sample(LOGITS[None], jax.random.key(0), **options)


def mixed():
    """Dense and sparse layers in turn, of two windows."""
    dense = gj.FeedForwardConfig(16, 24, "swiglu")
    sparse = gj.MoEConfig(gj.FeedForwardConfig(16, 8, "swiglu"), 4, 2)
    made = config(window=3)
    pattern = (LayerKind(3, RotaryConfig(), feed_forward=sparse),)
    pattern += (LayerKind(None, RotaryConfig(), feed_forward=dense),)
    return random_model(gj.Transformer, replace(made, num_layers=3, pattern=pattern))


@pytest.mark.parametrize("kind", [*KINDS, "mixed"])
def test_layers_one_by_one_decode_as_the_stack_does(kind):
    """What the loop over tokens has on a CPU: logits and cache; and no model is changed."""
    model = mixed() if kind == "mixed" else transformer(kind)
    model = jax.tree.map(lambda leaf: leaf, model)
    model.config = replace(model.config, scan_layers=None)

    @jax.jit
    def both(model, tokens):
        _, cache = model.decode(tokens[:, :5], model.empty_cache(2, 6))
        apart, own = model.unstacked(cache)
        assert isinstance(apart.layers, Unstacked)
        assert not isinstance(model.layers, Unstacked)
        logits, own = apart.decode(tokens[:, 5:6], own)
        stacked = type(own)(*(jnp.stack(leaves) for leaves in own))
        return (logits, stacked), model.decode(tokens[:, 5:6], cache)

    for one, other in zip(*map(jax.tree.leaves, both(model, TOKENS)), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_layers_that_shall_be_scanned_or_are_large_stay_stacked(monkeypatch):
    model = jax.tree.map(lambda leaf: leaf, transformer())
    cache = model.empty_cache(1, 2)
    model.config = replace(model.config, scan_layers=True)
    assert model.unstacked(cache)[0].layers is model.layers
    model.config = replace(model.config, scan_layers=None)
    assert isinstance(model.unstacked(cache)[0].layers, Unstacked)
    monkeypatch.setattr(stack, "MAX_UNSTACKED", 1000)
    assert model.unstacked(cache)[0].layers is model.layers
