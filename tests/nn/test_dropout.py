"""Dropout in flax's call convention, beside flax's own `nnx.Dropout`."""

from dataclasses import replace
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from random_models import random_model

import gelu_jax as gj
from gelu_jax.nn.dual_encoder import DualEncoder, DualEncoderConfig
from gelu_jax.nn.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from gelu_jax.nn.sigmoid_dual_encoder import (
    ImageTowerConfig,
    SigmoidDualEncoder,
    SigmoidDualEncoderConfig,
    TextTowerConfig,
)
from gelu_jax.nn.vision import VisionConfig, VisionEncoder, VisionEncoderConfig
from gelu_jax.nn.vision_language import VisionLanguage, VisionLanguageConfig

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


ENCODER = gj.BlockConfig(
    gj.NormConfig(8), gj.AttentionConfig(8, num_heads=2, causal=False), gj.FeedForwardConfig(8, 16)
)
IMAGES = jax.random.normal(jax.random.key(4), (2, 4, 4, 3))


def two_towers(of_text, of_images):
    """CLIP with a dropout rate in each of its towers."""
    vision = VisionConfig(4, 2, 1, replace(ENCODER, dropout_rate=of_images))
    text = gj.TransformerConfig(11, 1, replace(ENCODER, dropout_rate=of_text))
    return DualEncoderConfig(text, vision, 8)


def pooled_towers(of_text, of_images):
    towers = two_towers(of_text, of_images)
    return SigmoidDualEncoderConfig(
        TextTowerConfig(towers.text, 8), ImageTowerConfig(towers.vision)
    )


def vision_language(of_text, of_images):
    towers = two_towers(of_text, of_images)
    return VisionLanguageConfig(towers.vision, towers.text, image_token=10, vision_layers=1)


def translator(rate, in_attention):
    attention = replace(ENCODER.attention, dropout_rate=in_attention)
    return EncoderDecoderConfig(11, 1, 1, replace(ENCODER, dropout_rate=rate, attention=attention))


def vision_encoder(rate, in_attention):
    attention = replace(ENCODER.attention, dropout_rate=in_attention)
    block = replace(ENCODER, dropout_rate=rate, attention=attention)
    return VisionEncoderConfig(VisionConfig(4, 2, 1, block), pooler=True)


PATCHES = jnp.full((2, 4), 10)  # of two images
MODELS = {
    EncoderDecoder: (translator, lambda model, **mode: model(TOKENS, TOKENS + 1, **mode)),
    VisionEncoder: (vision_encoder, lambda model, **mode: model(IMAGES, **mode)),
    DualEncoder: (two_towers, lambda model, **mode: model(IMAGES, TOKENS, **mode)),
    SigmoidDualEncoder: (pooled_towers, lambda model, **mode: model(IMAGES, TOKENS, **mode)),
    VisionLanguage: (
        vision_language,
        lambda model, **mode: model(jnp.hstack([TOKENS, PATCHES]), images=IMAGES, **mode),
    ),
}


@pytest.mark.parametrize("kind", MODELS, ids=lambda kind: kind.__name__)
def test_models_of_two_parts_drop_in_each(kind):
    """Off, they compute what a model without dropout does; on, each of the two rates counts.

    Calls in one program may be compiled in other orders of sums: 1e-7 measured.
    """
    make, call = MODELS[kind]
    rates = [(0.0, 0.0), (0.5, 0.0), (0.0, 0.5), (0.5, 0.5)]
    models = [random_model(kind, make(*each)) for each in rates]
    models[1].eval()

    @jax.jit
    def outcomes(models, key):
        quiet, of_one, of_other, of_both = models
        keyed = [call(of_other, dropout_key=key), call(of_both, rngs=nnx.Rngs(dropout=key))]
        keyed.append(call(of_one, deterministic=False, dropout_key=key))
        return call(quiet), [call(of_both, deterministic=True), call(of_one)], keyed

    plain, off, keyed = outcomes(models, jax.random.key(1))
    same, other = (outcomes(models, jax.random.key(i))[2] for i in (1, 2))
    for y in off:
        np.testing.assert_allclose(y, plain, atol=1e-6)
    for y, again, another in zip(keyed, same, other, strict=True):
        assert jnp.abs(y - plain).max() > 0.01
        np.testing.assert_array_equal(y, again)
        assert jnp.abs(y - another).max() > 0.01
    assert jnp.abs(keyed[0] - keyed[2]).max() > 0.01


@pytest.mark.parametrize("kind", MODELS, ids=lambda kind: kind.__name__)
def test_models_of_two_parts_need_a_key(kind):
    make, call = MODELS[kind]
    for rates in [(0.5, 0.0), (0.0, 0.5)]:
        model = nnx.eval_shape(lambda rates=rates: kind(make(*rates), rngs=nnx.Rngs(0)))
        with pytest.raises(ValueError, match=r"dropout_rate = 0.5: training needs a key"):
            jax.eval_shape(call, model)


def test_the_two_parts_draw_from_keys_of_their_own():
    """Encoder and decoder, image and text: never one mask for both."""
    key = jax.random.key(1)
    drawn = []

    def of_part(name):
        def call(self, *args, dropout_key=None, **mode):
            drawn.append(jax.random.key_data(dropout_key))
            return jnp.ones((2, 3, 8))

        return mock.patch(f"gelu_jax.nn.{name}", call)

    towers = DualEncoder(two_towers(0.5, 0.5), rngs=nnx.Rngs(0))
    hidden, images = "transformer.Transformer.hidden", "vision.VisionTransformer.hidden"
    with of_part(hidden), of_part(images):
        towers(IMAGES, TOKENS, dropout_key=key)
    assert (drawn[0] != drawn[1]).any()
    assert all((each != jax.random.key_data(key)).any() for each in drawn)


def test_decoding_of_models_of_two_parts_never_drops():
    translator_ = nnx.eval_shape(lambda: EncoderDecoder(translator(0.5, 0.5), rngs=nnx.Rngs(0)))
    towers = two_towers(0.5, 0.5)
    causal = replace(towers.text.block, attention=gj.AttentionConfig(8, num_heads=2))
    text = replace(towers.text, block=causal)
    config = VisionLanguageConfig(towers.vision, text, image_token=10, vision_layers=1)
    llava = nnx.eval_shape(lambda: VisionLanguage(config, rngs=nnx.Rngs(0)))

    def translated(model):
        return model.decode(TOKENS, model.start(TOKENS, 3))[0]

    def continued(model):
        tokens = jnp.hstack([TOKENS, PATCHES])
        return model.decode(tokens, model.empty_cache(2, 7), images=IMAGES)[0]

    assert jax.eval_shape(translated, translator_).shape == (2, 3, 11)
    assert jax.eval_shape(continued, llava).shape == (2, 7, 11)
