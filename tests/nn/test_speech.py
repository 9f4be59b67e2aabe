"""Whisper's stem, and the model that it stands before."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from random_models import random_arrays, random_model

import gelu_jax as gj
from gelu_jax.nn.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from gelu_jax.nn.position import sinusoids
from gelu_jax.nn.speech import SpeechStem, SpeechStemConfig, convolve_frames

STEM = SpeechStemConfig(num_mels=5, num_positions=6, d_model=8)
BLOCK = gj.BlockConfig(
    gj.NormConfig(8, use_bias=True),
    gj.AttentionConfig(8, num_heads=2, causal=False, use_bias=True, key_bias=False),
    gj.FeedForwardConfig(8, d_ff=12, variant="gelu", use_bias=True),
)
MODEL = EncoderDecoderConfig(11, 2, 1, BLOCK, relative=None, max_positions=7, stem=STEM)


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("frames", [1, 6, 7])
@pytest.mark.parametrize("width", [1, 3, 5])
def test_a_convolution_over_time_is_that_of_jax(stride, frames, width):
    x, w = random_arrays((2, frames, 3), (width, 3, 4))
    pad = [(width // 2, width // 2)]
    expected = jax.lax.conv_general_dilated(
        x, w, (stride,), pad, dimension_numbers=("NWC", "WIO", "NWC")
    )
    np.testing.assert_allclose(convolve_frames(x, w, stride=stride), expected, atol=2e-6)


def test_the_stem_is_its_equation():
    stem, (x,) = random_model(SpeechStem, STEM), random_arrays((2, 5, 12))

    def layer(x, w, b, stride):
        sizes = {"window_strides": (stride,), "padding": [(1, 1)]}
        y = jax.lax.conv_general_dilated(x, jnp.moveaxis(w, 2, 0).swapaxes(1, 2), **sizes)
        return jax.nn.gelu(y + b[None, :, None], approximate=False)

    h = layer(x, stem.w_first[...], stem.b_first[...], 1)
    h = layer(h, stem.w_second[...], stem.b_second[...], 2)
    expected = h.mT + stem.positions[...]
    np.testing.assert_allclose(stem(x), expected, rtol=0, atol=2e-6)  # measured: 5e-7


def test_the_positions_are_fixed_sines_and_no_parameter():
    stem = SpeechStem(STEM, rngs=nnx.Rngs(0))
    np.testing.assert_array_equal(stem.positions[...], sinusoids(6, 8))
    assert "positions" not in nnx.to_pure_dict(nnx.state(stem, nnx.Param))
    (x,) = random_arrays((1, 5, 12))
    gradient = jax.grad(lambda stem: jnp.square(stem(x)).sum())(stem)
    assert not gradient.positions[...].any()
    assert all(jnp.abs(g).max() > 0 for g in jax.tree.leaves(nnx.state(gradient, nnx.Param)))


@pytest.mark.parametrize(("dtype", "bound"), [("bfloat16", 2**-6), ("float16", 2**-9)])
def test_the_stem_in_a_narrow_dtype(dtype, bound):
    stem, (x,) = random_model(SpeechStem, STEM), random_arrays((2, 5, 12))
    narrow = random_model(SpeechStem, replace(STEM, dtype=dtype))
    y, pull = jax.vjp(lambda stem, x: stem(x), narrow, x)
    assert y.dtype == jnp.dtype(dtype)
    np.testing.assert_allclose(y.astype(jnp.float32), stem(x), rtol=bound, atol=bound)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(pull(y)))


@pytest.mark.parametrize("shape", [(2, 5, 10), (2, 4, 12), (2, 5, 14)])
def test_another_number_of_frames_or_bands_is_refused(shape):
    model = nnx.eval_shape(lambda: EncoderDecoder(MODEL, rngs=nnx.Rngs(0)))
    message = (
        rf"features = \({shape[0]}, {shape[1]}, {shape[2]}\): must have the shape \(b, 5, 12\)"
    )
    with pytest.raises(gj.ConfigError, match=message) as caught:
        jax.eval_shape(model.encode, jnp.ones(shape))
    assert "\n" not in str(caught.value)


def test_more_tokens_than_positions_are_refused():
    model, features = random_model(EncoderDecoder, MODEL), jnp.ones((1, 5, 12))
    assert jax.eval_shape(model, features, jnp.ones((1, 7), int)).shape == (1, 7, 11)
    for call in (lambda: model(features, jnp.ones((1, 8), int)), lambda: model.start(features, 8)):
        with pytest.raises(gj.ConfigError, match="length = 8: this model has 7 positions"):
            jax.eval_shape(call)


def test_tokens_one_by_one_are_tokens_at_once():
    model, (features,) = random_model(EncoderDecoder, MODEL), random_arrays((2, 5, 12))
    tokens = jnp.array([[1, 5, 3, 2], [4, 4, 9, 0]])
    expected = model(features, tokens)
    cache, found = model.start(features, 4), []
    for t in range(4):
        logits, cache = model.decode(tokens[:, t : t + 1], cache)
        found.append(logits[:, 0])
    np.testing.assert_allclose(jnp.stack(found, 1), expected, rtol=0, atol=2e-6)


def test_the_decoder_may_have_other_heads_and_another_width():
    other = replace(
        BLOCK,
        attention=replace(BLOCK.attention, num_heads=4),
        feed_forward=replace(BLOCK.feed_forward, d_ff=20),
    )
    model = nnx.eval_shape(lambda: EncoderDecoder(replace(MODEL, decoder=other), rngs=nnx.Rngs(0)))
    assert model.encoder.layers.attention.w_query.shape == (2, 8, 2, 4)
    for part in (model.decoder.layers.attention, model.decoder.layers.cross_attention):
        assert part.w_query.shape == (1, 8, 4, 2)
        assert part.b_query is not None
        assert part.b_key is None
    assert model.decoder.layers.feed_forward.w_out.shape == (1, 20, 8)


def test_a_decoder_with_dropout_of_its_own_needs_a_key():
    config = replace(MODEL, decoder=replace(BLOCK, dropout_rate=0.5))
    model = nnx.eval_shape(lambda: EncoderDecoder(config, rngs=nnx.Rngs(0)))
    features, targets = jnp.ones((1, 5, 12)), jnp.ones((1, 3), int)
    with pytest.raises(ValueError, match=r"dropout_rate = 0.5: training needs a key"):
        jax.eval_shape(model, features, targets)
    assert jax.eval_shape(lambda m, x: m.encode(x), model, features).shape == (1, 6, 8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda: replace(STEM, d_model=9), "d_model = 9: must be even"),
        (lambda: replace(STEM, d_model=2), "d_model = 2: must be even, and 4 or more"),
        (lambda: replace(STEM, num_mels=0), "num_mels = 0: must be above 0"),
        (lambda: replace(MODEL, max_positions=0), "max_positions = 0: must be above 0"),
        (
            lambda: replace(MODEL, stem=replace(STEM, d_model=4)),
            r"stem.d_model = 4: must equal block.norm.d_model = 8",
        ),
        (
            lambda: replace(MODEL, stem=None, block=gj.BlockConfig(
                gj.NormConfig(4), gj.AttentionConfig(4, 2), gj.FeedForwardConfig(4, 8)
            ), decoder=BLOCK),
            r"decoder.norm.d_model = 8: must equal block.norm.d_model = 4",
        ),
    ],
)  # fmt: skip
def test_wrong_configs_say_what_is_wrong(change, message):
    with pytest.raises(gj.ConfigError, match=message):
        change()
