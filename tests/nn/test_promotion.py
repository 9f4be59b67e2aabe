"""JAX told to promote neither ranks nor dtypes: the modules spell out what they mean."""

import contextlib
from dataclasses import fields, is_dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from random_models import random_arrays, random_model

import gelu_jax as gj
from gelu_jax.nn.convolution import EfficientNet, EfficientNetConfig, MBConvConfig
from gelu_jax.nn.decoding import generate
from gelu_jax.nn.dual_encoder import DualEncoder, DualEncoderConfig
from gelu_jax.nn.encoder import Encoder, EncoderConfig
from gelu_jax.nn.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from gelu_jax.nn.position import LongRopeScaling
from gelu_jax.nn.sigmoid_dual_encoder import (
    ImageTowerConfig,
    SigmoidDualEncoder,
    SigmoidDualEncoderConfig,
    TextTowerConfig,
)
from gelu_jax.nn.speech import SpeechStemConfig
from gelu_jax.nn.stack import LayerKind
from gelu_jax.nn.vision import VisionConfig, VisionEncoder, VisionEncoderConfig
from gelu_jax.nn.vision_language import VisionLanguage, VisionLanguageConfig

KEY = jax.random.key(0)
X, IMAGES, SPECTROGRAMS = random_arrays((2, 3, 8), (2, 4, 4, 3), (2, 4, 6))
TOKENS = jnp.arange(6).reshape(2, 3)
MASK = jnp.array([[False, True, True], [True, True, True]])


@contextlib.contextmanager
def strict():
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        yield


def block(style="pre_norm", dropout_rate=0.0, **attention):
    heads = {"num_heads": 4, "num_kv_heads": 2, "use_bias": True} | attention
    return gj.BlockConfig(
        gj.NormConfig(8, use_bias=True),
        gj.AttentionConfig(8, **heads),
        gj.FeedForwardConfig(
            8, d_ff=16, variant="swiglu", use_bias=True, dropout_rate=dropout_rate
        ),
        style=style,
        dropout_rate=dropout_rate,
    )


def feed_forward(variant, **choices):
    return gj.FeedForwardConfig(8, d_ff=16, variant=variant, use_bias=True, **choices)


TEXT = gj.TransformerConfig(
    11, 2, block(rotary=gj.RotaryConfig(), window=2), max_positions=9, token_types=2,
    embedding_norm=True,
)  # fmt: skip
LONGROPE = LongRopeScaling((1.0,), (2.0,), original_positions=2, factor=2.0)
VISION = VisionConfig(4, 2, 1, block(causal=False), embedding_norm=True)

CALLS = {
    **{
        f"{variant} {choices}": (
            gj.FeedForward,
            feed_forward(variant, dropout_rate=0.5, **choices),
            lambda m: m(X, dropout_key=KEY),
        )
        for variant in ("swiglu_gpt_oss", ("gelu", "prelu", "xielu", "swish_beta"))
        for choices in (
            {},
            {"chunk_size": 2},
            {"residual_dtype": "bfloat16"},
            {"residuals": "all", "rounding": "hf"},
        )
    },
    "rms": (gj.Norm, gj.NormConfig(8, kind="rms", zero_centered=True), lambda m: m(X)),
    "layer": (gj.Norm, gj.NormConfig(8, use_bias=True), lambda m: m(X)),
    "attention": (gj.Attention, TEXT.block.attention, lambda m: m(X, mask=MASK)),
    **{
        style: (gj.Block, block(style, 0.5), lambda m: m(X, mask=MASK, dropout_key=KEY))
        for style in ("pre_norm", "post_norm", "parallel")
    },
    "transformer": (
        gj.Transformer,
        replace(TEXT, block=block(dropout_rate=0.5)),
        lambda m: m(TOKENS, mask=MASK, dropout_key=KEY),
    ),
    "generate": (
        gj.Transformer,
        TEXT,
        lambda m: generate(m, TOKENS, 3, mask=MASK, key=KEY, top_k=3, top_p=0.5, end_token=1),
    ),
    "longrope": (
        gj.Transformer,
        replace(TEXT, block=block(rotary=gj.RotaryConfig(scaling=LONGROPE))),
        lambda m: (m(TOKENS, segment_ids=MASK.astype(int)), generate(m, TOKENS, 3, mask=MASK)),
    ),
    "mlp": (gj.MLP, gj.MLPConfig(8, 3, 2, 16), lambda m: m(X[0], dropout_key=KEY)),
    "vit": (
        VisionEncoder,
        VisionEncoderConfig(VISION, pooler=True, num_classes=3),
        lambda m: (m.logits(m(IMAGES)), m.pool(m(IMAGES))),
    ),
    "llava": (
        VisionLanguage,
        VisionLanguageConfig(VISION, TEXT, image_token=10, vision_layers=1),
        lambda m: m(TOKENS, images=IMAGES[:0], mask=MASK),
    ),
    "clip": (DualEncoder, DualEncoderConfig(TEXT, VISION, 5), lambda m: m(IMAGES, TOKENS)),
    "siglip": (
        SigmoidDualEncoder,
        SigmoidDualEncoderConfig(TextTowerConfig(TEXT, 8), ImageTowerConfig(VISION)),
        lambda m: m(IMAGES, TOKENS),
    ),
    "modernbert": (
        Encoder,
        EncoderConfig(
            replace(TEXT, pattern=(LayerKind(normed=False), LayerKind(2)), embedding_size=4),
            pooler=True,
            pooling="mean",
            pooler_norm=True,
            num_classes=2,
            replaced_head="gelu",
        ),
        lambda m: (m.class_logits(m(TOKENS), mask=MASK), m.replaced_logits(m(TOKENS))),
    ),
    "bert": (
        Encoder,
        EncoderConfig(TEXT, pooler=True, masked_head="gelu"),
        lambda m: (m.pool(m(TOKENS, mask=MASK)), m.masked_logits(m(TOKENS))),
    ),
    "t5": (
        EncoderDecoder,
        EncoderDecoderConfig(11, 1, 1, block(causal=False)),
        lambda m: (
            m(TOKENS, TOKENS, mask=MASK, target_mask=MASK),
            m.decode(TOKENS, m.start(TOKENS, 5, mask=MASK))[0],
        ),
    ),
    "whisper": (
        EncoderDecoder,
        EncoderDecoderConfig(
            *(11, 1, 1, block(causal=False, key_bias=False)),
            relative=None,
            max_positions=5,
            stem=SpeechStemConfig(4, 3, 8),
        ),
        lambda m: (
            m(SPECTROGRAMS, TOKENS, target_mask=MASK),
            m.decode(TOKENS, m.start(SPECTROGRAMS, 5))[0],
        ),
    ),
    "efficientnet": (
        EfficientNet,
        EfficientNetConfig(8, (MBConvConfig(8, 8, 2, skip=True),), 8, num_classes=3),
        lambda m: m(IMAGES),
    ),
}


def in_dtype(config, dtype):
    """The config with every compute dtype in it changed."""
    if isinstance(config, tuple):
        return tuple(in_dtype(c, dtype) for c in config)
    if not is_dataclass(config):
        return config
    changes = {f.name: in_dtype(getattr(config, f.name), dtype) for f in fields(config)}
    return replace(config, **(changes | ({"dtype": dtype} if "dtype" in changes else {})))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", CALLS)
def test_nothing_is_promoted(name, dtype):
    """Forward and backward: both are traced, which is where JAX would raise."""
    module, config, call = CALLS[name]

    def loss(model):
        leaves = jax.tree.leaves(call(model))
        return sum(leaf.astype(jnp.float32).sum() for leaf in leaves)

    with strict():
        model = nnx.eval_shape(lambda: module(in_dtype(config, dtype), rngs=nnx.Rngs(0)))
        if name == "generate":  # tokens have no gradient
            assert jax.eval_shape(loss, model).shape == ()
            return
        gradient = jax.eval_shape(jax.grad(loss, allow_int=True), model)
    assert jax.tree.structure(gradient) == jax.tree.structure(model)


def test_the_values_are_the_same():
    config = in_dtype(replace(TEXT, block=block("post_norm", 0.5)), "bfloat16")
    model = random_model(gj.Transformer, config)
    call = jax.jit(lambda m: m(TOKENS, mask=MASK, dropout_key=KEY))
    plain = call(model)
    with strict():
        np.testing.assert_array_equal(call(model), plain)


def test_a_slope_of_each_channel_broadcasts_as_it_did():
    x, slope = map(np.asarray, random_arrays((2, 3), (3,)))
    with strict():
        np.testing.assert_array_equal(gj.prelu(x, slope), np.where(x > 0, x, slope * x))
        np.testing.assert_array_equal(gj.prelu(slope, x), np.where(slope > 0, slope, slope * x))


@pytest.mark.parametrize("residuals", ["preactivation", "input", "all"])
@pytest.mark.parametrize("chunk_size", [None, 2])
def test_the_output_has_the_dtype_of_x_whatever_that_of_the_weights(residuals, chunk_size):
    x, gate, up, out, bias = random_arrays((5, 4), (4, 6), (4, 6), (6, 3), (3,))
    narrow = x.astype(jnp.bfloat16)

    @jax.jit
    def both(x):
        extra = {"b_out": bias, "residuals": residuals, "chunk_size": chunk_size}
        run = lambda x: gj.feed_forward(x, [gate, up], out, **extra)  # noqa: E731
        return run(x), jax.grad(lambda x: run(x).astype(jnp.float32).sum())(x)

    (y, gradient), (exact, _) = both(narrow), both(narrow.astype(jnp.float32))
    assert y.dtype == gradient.dtype == jnp.bfloat16
    np.testing.assert_allclose(y.astype(jnp.float32), exact, rtol=2e-2, atol=2e-2)
