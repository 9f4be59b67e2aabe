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


def vision_encoder_config(hf: HFConfig, tensors: Collection[str]) -> VisionEncoderConfig:
    """The encoder that ViT's fields describe.

    Args:
      hf: the fields.
      tensors: the names of the tensors that are there, which tell whether there is a pooler or a
        classifier.

    Returns:
      The encoder.
    """
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


ATTENTION = attention(
    "attention",
    "attention",
    "attention.query",
    "attention.key",
    "attention.value",
    "output.dense",
)

LAYER = (
    *norm("attention_norm", "layernorm_before"),
    *ATTENTION,
    *norm("feed_forward_norm", "layernorm_after"),
    *feed_forward("feed_forward", ["intermediate.dense"], "output.dense"),
)


def vision_map(name: str, layer: WeightMap) -> WeightMap:
    """The entries of a vision encoder, and of the heads that have one name in all.

    Args:
      name: the encoder in transformers.
      layer: the entries of a layer.

    Returns:
      The entries.
    """
    patch = f"{name}.embeddings.patch_embeddings.projection"
    return (
        Entry("vision.class_token", f"{name}.embeddings.cls_token", "1 1 d -> d"),
        Entry("vision.positions", f"{name}.embeddings.position_embeddings", "1 t d -> t d"),
        Entry("vision.w_patch", f"{patch}.weight", "d c p q -> p q c d"),
        Entry("vision.b_patch", f"{patch}.bias"),
        *prefixed(layer, "vision.layers.", f"{name}.encoder.layer.{{}}."),
        *norm("vision.final_norm", f"{name}.layernorm"),
        *linear("pooler.{}", f"{name}.pooler.dense"),
        *linear("classifier.{}", "classifier"),
    )


VIT = Family(
    "vit",
    vision_encoder_config,
    VisionEncoder,
    lambda _: vision_map("vit", LAYER),
    aliases=((r"^vit\.", ""),),
    without_effect=frozenset({"encoder_stride"}),  # of the head of masked images
)
