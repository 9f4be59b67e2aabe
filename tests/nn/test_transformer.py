from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from random_models import random_arrays, random_model

import gelu_jax as gj
from gelu_jax.nn.stack import init_layers

STYLES = ["pre_norm", "post_norm", "parallel", "parallel_norms"]


def config(style="pre_norm", causal=True, variant="swiglu", num_layers=3, **fields):
    block = gj.BlockConfig(
        gj.NormConfig(16, kind="rms"),
        gj.AttentionConfig(16, num_heads=2, causal=causal, rotary=gj.RotaryConfig()),
        gj.FeedForwardConfig(16, d_ff=24, variant=variant),
        style=style,
    )
    return gj.TransformerConfig(vocab_size=31, num_layers=num_layers, block=block, **fields)


@jax.jit
def sensitivity(layers, x):
    """|∂ output at i / ∂ embedding at j|, by gradient through the blocks."""

    def stack(x):
        y, _ = jax.lax.scan(lambda x, block: (block(x), None), x, layers)
        return y

    return jnp.abs(jax.jacrev(stack)(x)[0, :, :, 0]).sum((1, 3))


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("causal", [True, False], ids=["decoder", "encoder"])
def test_a_decoder_never_looks_ahead_and_an_encoder_looks_everywhere(style, causal):
    model = random_model(gj.Transformer, config(style, causal))
    (x,) = random_arrays((1, 5, 16))
    seen = np.asarray(sensitivity(model.layers, x))
    i, j = np.ogrid[:5, :5]
    ahead = (j > i) & causal
    assert (seen[ahead] == 0).all()
    assert (seen[~ahead] > 0).all()


def wired(style, x, norm, attn, cross, ffn):
    """The papers' own lines: GPT-2 and LLaMA, BERT, PaLM, GPT-NeoX."""
    if style == "pre_norm":
        x = x + attn(norm["attention"](x))
        x = x + cross(norm["cross_attention"](x))
        return x + ffn(norm["feed_forward"](x))
    if style == "post_norm":
        x = norm["attention"](x + attn(x))
        x = norm["cross_attention"](x + cross(x))
        return norm["feed_forward"](x + ffn(x))
    h = norm["attention"](x)
    own = norm["feed_forward"](x) if style == "parallel_norms" else h
    return x + attn(h) + cross(h) + ffn(own)


@pytest.mark.parametrize("style", STYLES)
def test_each_style_is_wired_as_its_paper_says(style):
    c = config(style).block
    c = replace(c, cross_attention=gj.AttentionConfig(16, num_heads=4, causal=False))
    x, encoded = random_arrays((2, 5, 16), (2, 7, 16))

    @jax.jit
    def both(block):
        memory = block.cross_attention.project_kv(encoded)
        norm = {n: getattr(block, f"{n}_norm") for n in ("attention", "cross_attention")}
        norm["feed_forward"] = block.feed_forward_norm
        cross = lambda h: block.cross_attention.cross_attend(h, memory)  # noqa: E731
        expected = wired(style, x, norm, block.attention, cross, block.feed_forward)
        return block.attend(x, memory=memory)[0], expected

    found, expected = both(random_model(gj.Block, c))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_unrolled_equals_scanned():
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 31, (2, 7)))
    scanned, unrolled = (
        gj.Transformer(config(scan_layers=scan), rngs=nnx.Rngs(0)) for scan in (True, False)
    )
    assert jax.tree.all(jax.tree.map(jnp.array_equal, nnx.state(scanned), nnx.state(unrolled)))
    one, other = (jax.jit(lambda m: m(tokens))(model) for model in (scanned, unrolled))
    np.testing.assert_allclose(one, other, atol=1e-6)


def test_arms_share_the_initial_values_of_what_they_share():
    relu = nnx.state(gj.Transformer(config(variant="relu"), rngs=nnx.Rngs(3)))
    swiglu = nnx.state(gj.Transformer(config(variant="swiglu"), rngs=nnx.Rngs(3)))
    for path, value in nnx.to_flat_state(relu):
        np.testing.assert_array_equal(
            value[...], dict(nnx.to_flat_state(swiglu))[path][...], str(path)
        )


def test_initial_scales():
    c = config(num_layers=8)
    c = replace(c, block=replace(c.block, feed_forward=replace(c.block.feed_forward, d_ff=512)))
    layers = init_layers(c.block, c.num_layers, rngs=nnx.Rngs(0))
    ffn = layers.feed_forward
    # 65,536 draws: the standard error of a standard deviation is 0.3 %
    np.testing.assert_allclose(ffn.w_in[0][...].std(), 16**-0.5, rtol=0.02)
    np.testing.assert_allclose(ffn.w_out[...].std(), 512**-0.5 / 4, rtol=0.02)
    np.testing.assert_allclose(layers.attention.w_out[...].std(), 16**-0.5 / 4, rtol=0.05)


def test_initial_scales_when_a_standard_deviation_is_named():
    ffn = gj.FeedForward(gj.FeedForwardConfig(64, 512, init_std=0.02), rngs=nnx.Rngs(0))
    np.testing.assert_allclose(ffn.w_in[0][...].std(), 0.02, rtol=0.02)
    np.testing.assert_allclose(ffn.w_out[...].std(), 0.02, rtol=0.02)


def test_dropout_needs_a_key_and_keeps_the_mean():
    ffn = random_model(gj.FeedForward, gj.FeedForwardConfig(8, 256, dropout_rate=0.5))
    (x,) = random_arrays((1, 8))
    keys = jax.random.split(jax.random.key(0), 200)
    dropped = jax.jit(jax.vmap(lambda key: ffn(x, dropout_key=key)))(keys)
    assert dropped.std(0).min() > 0
    error = dropped.std(0) / np.sqrt(200)
    assert (abs(dropped.mean(0) - ffn(x, deterministic=True)) < 5 * error).all()
    with pytest.raises(ValueError, match=r"dropout_rate = 0.5: training needs a key"):
        ffn(x)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"d_out": 8}, "feed_forward.d_out = 8: must equal norm.d_model = 16"),
        ({"d_model": 8}, "feed_forward.d_model = 8: must equal norm.d_model = 16"),
    ],
)
def test_a_block_of_two_widths_is_refused(changes, line):
    c = config().block
    with pytest.raises(gj.ConfigError) as error:
        replace(c, feed_forward=replace(c.feed_forward, **changes))
    assert str(error.value) == line
