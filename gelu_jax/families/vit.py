"""ViT (Dosovitskiy et al. 2021). Images are (b, height, width, channels) here."""

from collections.abc import Collection
from dataclasses import replace

from gelu_jax.families.common import bert_block, has_tensor
from gelu_jax.families.family import Family
from gelu_jax.families.hf_config import HFConfig
from gelu_jax.families.weight_map import (
    Entry,
    WeightMap,
    attention,
    feed_forward,
    linear,
    norm,
    prefixed,
)
from gelu_jax.nn.vision import VisionConfig, VisionEncoder, VisionEncoderConfig


def _config(hf: HFConfig, tensors: Collection[str]) -> VisionEncoderConfig:
    """Whether there is a pooler or a classifier, the tensors tell."""
    pooler = has_tensor(tensors, "pooler.dense.weight")
    if pooler:
        hf.require("pooler_act", "tanh")
        hf.require("pooler_output_size", hf.integer("hidden_size"))
    else:  # nothing to say it of
        hf.read |= {"pooler_act", "pooler_output_size"}
    classes = hf.num_labels() if has_tensor(tensors, "classifier.weight") else None
    block = bert_block(hf, epsilon=1e-12, activation="gelu", causal=False)
    attention = replace(block.attention, use_bias=hf.flag("qkv_bias", True), out_bias=True)
    vision = VisionConfig(
        image_size=hf.integer("image_size", 224),
        patch_size=hf.integer("patch_size", 16),
        channels=hf.integer("num_channels", 3),
        num_layers=hf.integer("num_hidden_layers"),
        block=replace(block, attention=attention),
    )
    return VisionEncoderConfig(vision, pooler=pooler, num_classes=classes)


_LAYER = (
    *norm("attention_norm", "layernorm_before"),
    *attention(
        "attention",
        "attention",
        "attention.query",
        "attention.key",
        "attention.value",
        "output.dense",
    ),
    *norm("feed_forward_norm", "layernorm_after"),
    *feed_forward("feed_forward", ["intermediate.dense"], "output.dense"),
)

_PATCH = "vit.embeddings.patch_embeddings.projection"


def _weight_map(_: VisionEncoderConfig) -> WeightMap:
    return (
        Entry("vision.class_token", "vit.embeddings.cls_token", "1 1 d -> d"),
        Entry("vision.positions", "vit.embeddings.position_embeddings", "1 t d -> t d"),
        Entry("vision.w_patch", f"{_PATCH}.weight", "d c p q -> p q c d"),
        Entry("vision.b_patch", f"{_PATCH}.bias"),
        *prefixed(_LAYER, "vision.layers.", "vit.encoder.layer.{}."),
        *norm("vision.final_norm", "vit.layernorm"),
        *linear("pooler.{}", "vit.pooler.dense"),
        *linear("classifier.{}", "classifier"),
    )


VIT = Family(
    "vit",
    _config,
    VisionEncoder,
    _weight_map,
    aliases=((r"^vit\.", ""),),
    without_effect=frozenset({"encoder_stride"}),  # of the head of masked images
)
