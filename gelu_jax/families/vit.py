"""ViT (Dosovitskiy et al. 2021). Images are (b, height, width, channels) here."""

from collections.abc import Collection

from gelu_jax.families.common import heads, holds
from gelu_jax.families.family import Family
from gelu_jax.families.hf_config import HFConfig
from gelu_jax.families.weight_map import Entry, within
from gelu_jax.nn.attention import AttentionConfig
from gelu_jax.nn.block import BlockConfig
from gelu_jax.nn.feed_forward import FeedForwardConfig
from gelu_jax.nn.norm import NormConfig
from gelu_jax.nn.vision import VisionConfig, VisionEncoder, VisionEncoderConfig


def config(s: HFConfig, tensors: Collection[str]) -> VisionEncoderConfig:
    """ViT's config.json as a config of ours; the number of classes is that of its labels."""
    pooler = holds(tensors, "pooler.dense.weight")
    if pooler:
        s.only("pooler_act", "tanh")
        s.only("pooler_output_size", s.integer("hidden_size"))
    classes = s.labels() if holds(tensors, "classifier.weight") else None
    return VisionEncoderConfig(_vision(s), pooler=pooler, num_classes=classes)


def _vision(s: HFConfig) -> VisionConfig:
    d = s.integer("hidden_size")
    return VisionConfig(
        image_size=s.integer("image_size", 224),
        patch_size=s.integer("patch_size", 16),
        channels=s.integer("num_channels", 3),
        num_layers=s.integer("num_hidden_layers"),
        block=BlockConfig(
            NormConfig(d, use_bias=True, epsilon=s.number("layer_norm_eps", 1e-12)),
            AttentionConfig(
                d,
                num_heads=heads(s, d),
                causal=False,
                use_bias=s.flag("qkv_bias", True),
                out_bias=True,
            ),
            FeedForwardConfig(
                d,
                d_ff=s.integer("intermediate_size"),
                variant=s.activation("hidden_act", "gelu"),
                use_bias=True,
            ),
        ),
    )


LAYER = (
    Entry("attention_norm.scale", "layernorm_before.weight"),
    Entry("attention_norm.bias", "layernorm_before.bias"),
    Entry("attention.w_query", "attention.attention.query.weight", "(h k) d -> d h k"),
    Entry("attention.b_query", "attention.attention.query.bias", "(h k) -> h k"),
    Entry("attention.w_key", "attention.attention.key.weight", "(h k) d -> d h k"),
    Entry("attention.b_key", "attention.attention.key.bias", "(h k) -> h k"),
    Entry("attention.w_value", "attention.attention.value.weight", "(h k) d -> d h k"),
    Entry("attention.b_value", "attention.attention.value.bias", "(h k) -> h k"),
    Entry("attention.w_out", "attention.output.dense.weight", "d (h k) -> h k d"),
    Entry("attention.b_out", "attention.output.dense.bias"),
    Entry("feed_forward_norm.scale", "layernorm_after.weight"),
    Entry("feed_forward_norm.bias", "layernorm_after.bias"),
    Entry("feed_forward.w_in.0", "intermediate.dense.weight", "f d -> d f"),
    Entry("feed_forward.b_in.0", "intermediate.dense.bias"),
    Entry("feed_forward.w_out", "output.dense.weight", "d f -> f d"),
    Entry("feed_forward.b_out", "output.dense.bias"),
)

ROWS = (
    Entry("vision.class_token", "vit.embeddings.cls_token", "1 1 d -> d"),
    Entry("vision.positions", "vit.embeddings.position_embeddings", "1 t d -> t d"),
    Entry(
        "vision.w_patch",
        "vit.embeddings.patch_embeddings.projection.weight",
        "d c p q -> p q c d",
    ),
    Entry("vision.b_patch", "vit.embeddings.patch_embeddings.projection.bias"),
    *within(LAYER, "vision.layers.", "vit.encoder.layer.{}."),
    Entry("vision.final_norm.scale", "vit.layernorm.weight"),
    Entry("vision.final_norm.bias", "vit.layernorm.bias"),
    Entry("pooler.w", "vit.pooler.dense.weight", "e d -> d e"),
    Entry("pooler.b", "vit.pooler.dense.bias"),
    Entry("classifier.w", "classifier.weight", "e d -> d e"),
    Entry("classifier.b", "classifier.bias"),
)

VIT = Family("vit", config, VisionEncoder, lambda _: ROWS, aliases=(("^vit.", ""),))
