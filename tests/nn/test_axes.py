"""Axis names: on every parameter of every module, and in the metadata of flax where rules ask."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec as P

import gelu_jax as gj
from gelu_jax.nn.axes import axis_names
from gelu_jax.nn.convolution import ConvNorm, ConvNormConfig
from gelu_jax.nn.dual_encoder import DualEncoder, DualEncoderConfig
from gelu_jax.nn.encoder import Encoder, EncoderConfig
from gelu_jax.nn.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from gelu_jax.nn.sigmoid_dual_encoder import (
    ImageTowerConfig,
    SigmoidDualEncoder,
    SigmoidDualEncoderConfig,
    TextTowerConfig,
)
from gelu_jax.nn.speech import SpeechStemConfig
from gelu_jax.nn.vision import VisionConfig, VisionEncoder, VisionEncoderConfig

RULES = tuple((letter, letter.upper()) for letter in "bdefghkpqvt")
BLOCK = gj.BlockConfig(
    gj.NormConfig(8, use_bias=True),
    gj.AttentionConfig(8, num_heads=2, use_bias=True),
    gj.FeedForwardConfig(8, 16, ("prelu", "polynorm"), use_bias=True, hidden_norm="rms"),
)
STACK = gj.TransformerConfig(11, 2, BLOCK, max_positions=4, tie_embeddings=False, token_types=2)
VISION = VisionConfig(image_size=4, patch_size=2, num_layers=2, block=BLOCK)
MODELS = {
    "Transformer": (gj.Transformer, STACK),
    "MLP": (gj.MLP, gj.MLPConfig(d_in=8, num_classes=3, num_layers=2, d_ff=4)),
    "Encoder": (Encoder, EncoderConfig(STACK, True, "gelu", True)),
    "EncoderDecoder": (EncoderDecoder, EncoderDecoderConfig(11, 2, 2, BLOCK)),
    "EncoderDecoder of speech": (
        EncoderDecoder,
        EncoderDecoderConfig(
            11, 2, 2, BLOCK, relative=None, max_positions=4, stem=SpeechStemConfig(5, 6, 8)
        ),
    ),
    "VisionEncoder": (VisionEncoder, VisionEncoderConfig(VISION, True, 3)),
    "DualEncoder": (DualEncoder, DualEncoderConfig(STACK, VISION, d_common=4)),
    "SigmoidDualEncoder": (
        SigmoidDualEncoder,
        SigmoidDualEncoderConfig(
            TextTowerConfig(replace(STACK, embedding_size=4), 8),
            ImageTowerConfig(
                replace(
                    VISION,
                    block=replace(BLOCK, layer_scale=True),
                    mask_token=True,
                    distillation_token=True,
                )
            ),
        ),
    ),
    "ConvNorm": (ConvNorm, ConvNormConfig(3, 8)),
}


def made(name, rules=()):
    module, config = MODELS[name]
    with nnx.logical_axis_rules(rules), nnx.use_eager_sharding(False):
        return nnx.eval_shape(lambda: module(config, rngs=nnx.Rngs(0)))


@pytest.mark.parametrize("name", MODELS)
def test_every_parameter_has_a_name_for_each_axis(name):
    """But for the one that a stack of layers puts before them."""
    model = made(name)
    for (path, leaf), axes in zip(
        jax.tree_util.tree_leaves_with_path(model), axis_names(model), strict=True
    ):
        text = jax.tree_util.keystr(path)
        stacked = ".layers." in text
        assert len(axes.split()) == leaf.ndim - stacked, text


@pytest.mark.parametrize("name", MODELS)
def test_metadata_are_those_names(name):
    with nnx.logical_axis_rules(RULES):
        specs = jax.tree.leaves(nnx.get_partition_spec(nnx.state(made(name, RULES))))
    plain = made(name)
    for leaf, axes, spec in zip(jax.tree.leaves(plain), axis_names(plain), specs, strict=True):
        placed = [dict(RULES).get(axis) for axis in axes.split()]
        lead = [None] * (leaf.ndim - len(placed)) if any(placed) else []
        assert spec == P(*lead, *(placed if any(placed) else [])), axes


def test_without_rules_there_is_no_metadata():
    specs = nnx.get_partition_spec(nnx.state(made("Transformer")))
    assert set(jax.tree.leaves(specs)) == {P()}


def test_a_model_of_a_mesh_is_that_of_one_device():
    config = gj.FeedForwardConfig(8, 16, "swiglu", use_bias=True)
    alone = gj.FeedForward(config, rngs=nnx.Rngs(0))
    with jax.set_mesh(jax.make_mesh((1, 1), ("fsdp", "tensor"))):
        with nnx.logical_axis_rules((("f", "tensor"),)):
            spread = gj.FeedForward(config, rngs=nnx.Rngs(0))
        assert spread.w_out.get_metadata("out_sharding") == ("f", None)
        assert not spread.b_out.has_metadata("out_sharding")
        pairs = zip(jax.tree.leaves(alone), jax.tree.leaves(spread), strict=True)
        for a, b in pairs:
            np.testing.assert_array_equal(a, b)
