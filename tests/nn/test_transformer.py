from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import gelu_jax as gj

STYLES = ["pre_norm", "post_norm", "parallel"]


def config(style="pre_norm", causal=True, variant="swiglu", num_layers=3, **fields):
    block = gj.BlockConfig(
        gj.NormConfig(16, kind="rms"),
        gj.AttentionConfig(16, num_heads=2, causal=causal, rotary=gj.RotaryConfig()),
        gj.FeedForwardConfig(16, d_ff=24, variant=variant),
        style=style,
    )
    return gj.TransformerConfig(vocab_size=31, num_layers=num_layers, block=block, **fields)


@pytest.fixture(scope="module")
def tokens():
    return jax.random.randint(jax.random.key(0), (2, 7), 0, 31)


def sensitivity(model, tokens):
    """|∂ output at i / ∂ embedding at j|, by gradient through the blocks."""
    x = jax.random.normal(jax.random.key(2), (1, 5, 16))

    def run(x):
        y, _ = jax.lax.scan(lambda x, block: (block(x), None), x, model.layers)
        return y

    jacobian = jax.jit(jax.jacrev(run))(x)[0, :, :, 0]
    return jnp.abs(jacobian).sum((1, 3))


@pytest.mark.parametrize("style", STYLES)
def test_a_decoder_never_looks_ahead(style, tokens):
    seen = sensitivity(gj.Transformer(config(style), rngs=nnx.Rngs(0)), tokens)
    i, j = np.ogrid[:5, :5]
    assert (seen[j > i] == 0).all()
    assert (seen[j <= i] > 0).all()


@pytest.mark.parametrize("style", STYLES)
def test_an_encoder_looks_everywhere(style, tokens):
    assert (
        sensitivity(gj.Transformer(config(style, causal=False), rngs=nnx.Rngs(0)), tokens) > 0
    ).all()


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize(("positions", "tied"), [(None, True), (16, False)])
def test_decoding_equals_the_full_forward(style, positions, tied, tokens):
    c = config(style, max_positions=positions, tie_embeddings=tied)
    model = gj.Transformer(c, rngs=nnx.Rngs(0))
    decode = jax.jit(gj.Transformer.decode)
    logits, cache = decode(model, tokens[:, :4], model.empty_cache(2, 8))
    outputs = [logits]
    for t in range(4, 7):
        logits, cache = decode(model, tokens[:, t : t + 1], cache)
        outputs.append(logits)
    np.testing.assert_allclose(jnp.concatenate(outputs, 1), model(tokens), atol=5e-6)


def test_unrolled_equals_scanned(tokens):
    scanned = gj.Transformer(config(), rngs=nnx.Rngs(0))
    unrolled = gj.Transformer(config(scan_layers=False), rngs=nnx.Rngs(0))
    assert jax.tree.all(jax.tree.map(jnp.array_equal, nnx.state(scanned), nnx.state(unrolled)))
    np.testing.assert_allclose(scanned(tokens), unrolled(tokens), atol=1e-6)


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
    model = gj.Transformer(c, rngs=nnx.Rngs(0))
    ffn = model.layers.feed_forward
    # 65,536 draws: the standard error of a standard deviation is 0.3 %
    np.testing.assert_allclose(ffn.w_in[0][...].std(), 16**-0.5, rtol=0.02)
    np.testing.assert_allclose(ffn.w_out[...].std(), 512**-0.5 / 4, rtol=0.02)
    np.testing.assert_allclose(model.layers.attention.w_out[...].std(), 16**-0.5 / 4, rtol=0.05)


def test_initial_scales_when_a_standard_deviation_is_named():
    ffn = gj.FeedForward(gj.FeedForwardConfig(64, 512, init_std=0.02), rngs=nnx.Rngs(0))
    np.testing.assert_allclose(ffn.w_in[0][...].std(), 0.02, rtol=0.02)
    np.testing.assert_allclose(ffn.w_out[...].std(), 0.02, rtol=0.02)


def test_dropout_needs_a_key_and_keeps_the_mean():
    c = gj.FeedForwardConfig(32, 4096, dropout_rate=0.5)
    ffn = gj.FeedForward(c, rngs=nnx.Rngs(0))
    x = jnp.ones((1, 32))
    keys = jax.random.split(jax.random.key(0), 200)
    dropped = jax.vmap(lambda key: ffn(x, dropout_key=key))(keys)
    assert dropped.std(0).min() > 0
    error = dropped.std(0) / np.sqrt(200)
    assert (abs(dropped.mean(0) - ffn(x)) < 5 * error).all()
