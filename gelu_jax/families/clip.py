"""CLIP (Radford et al. 2021). Images are (b, height, width, channels) here.

OpenAI's weights were trained with quick_gelu, OpenCLIP's with the exact gelu: each config says
which in ``hidden_act``, and quick_gelu is what it means where it says nothing.
"""

from collections.abc import Collection
from typing import Any

from gelu_jax.families.common import heads
from gelu_jax.families.family import Family
from gelu_jax.families.hf_config import HFConfig
from gelu_jax.families.weight_map import Entry, within
from gelu_jax.nn.attention import AttentionConfig
from gelu_jax.nn.block import BlockConfig
from gelu_jax.nn.dual_encoder import DualEncoder, DualEncoderConfig
from gelu_jax.nn.feed_forward import FeedForwardConfig
from gelu_jax.nn.norm import NormConfig
from gelu_jax.nn.transformer import TransformerConfig
from gelu_jax.nn.vision import VisionConfig

_OLD_END = 2  # a mistake of the first configs; their texts end in their largest token


def config(s: HFConfig, tensors: Collection[str]) -> DualEncoderConfig:
    """CLIP's config.json as a config of ours."""
    text = s.section("text_config").with_defaults(**_TEXT)
    end = text.integer("eos_token_id")
    return DualEncoderConfig(
        text=TransformerConfig(
            vocab_size=text.integer("vocab_size"),
            num_layers=text.integer("num_hidden_layers"),
            block=_block(text, causal=True),
            max_positions=text.integer("max_position_embeddings"),
        ),
        vision=vision_config(s.section("vision_config")),
        d_common=s.integer("projection_dim", 512),
        end_token=None if end == _OLD_END else end,
    )


def vision_config(s: HFConfig) -> VisionConfig:
    """The image tower's section of a config.json."""
    s = s.with_defaults(**_VISION)
    return VisionConfig(
        image_size=s.integer("image_size"),
        patch_size=s.integer("patch_size"),
        channels=s.integer("num_channels"),
        num_layers=s.integer("num_hidden_layers"),
        block=_block(s, causal=False),
        patch_bias=False,
        embedding_norm=True,
    )


def _block(s: HFConfig, *, causal: bool) -> BlockConfig:
    d = s.integer("hidden_size")
    return BlockConfig(
        NormConfig(d, use_bias=True, epsilon=s.number("layer_norm_eps", 1e-5)),
        AttentionConfig(d, num_heads=heads(s, d), causal=causal, use_bias=True),
        FeedForwardConfig(
            d,
            d_ff=s.integer("intermediate_size"),
            variant=s.activation("hidden_act", "quick_gelu"),
            use_bias=True,
        ),
    )


# Published configs leave out what equals these.
_TEXT: dict[str, Any] = {
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "vocab_size": 49408,
    "max_position_embeddings": 77,
    "eos_token_id": 49407,
}
_VISION: dict[str, Any] = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_channels": 3,
    "image_size": 224,
    "patch_size": 32,
}

LAYER = (
    Entry("attention_norm.scale", "layer_norm1.weight"),
    Entry("attention_norm.bias", "layer_norm1.bias"),
    Entry("attention.w_query", "self_attn.q_proj.weight", "(h k) d -> d h k"),
    Entry("attention.b_query", "self_attn.q_proj.bias", "(h k) -> h k"),
    Entry("attention.w_key", "self_attn.k_proj.weight", "(h k) d -> d h k"),
    Entry("attention.b_key", "self_attn.k_proj.bias", "(h k) -> h k"),
    Entry("attention.w_value", "self_attn.v_proj.weight", "(h k) d -> d h k"),
    Entry("attention.b_value", "self_attn.v_proj.bias", "(h k) -> h k"),
    Entry("attention.w_out", "self_attn.out_proj.weight", "d (h k) -> h k d"),
    Entry("attention.b_out", "self_attn.out_proj.bias"),
    Entry("feed_forward_norm.scale", "layer_norm2.weight"),
    Entry("feed_forward_norm.bias", "layer_norm2.bias"),
    Entry("feed_forward.w_in.0", "mlp.fc1.weight", "f d -> d f"),
    Entry("feed_forward.b_in.0", "mlp.fc1.bias"),
    Entry("feed_forward.w_out", "mlp.fc2.weight", "d f -> f d"),
    Entry("feed_forward.b_out", "mlp.fc2.bias"),
)

TEXT = (
    Entry("embedding", "embeddings.token_embedding.weight"),
    Entry("positions", "embeddings.position_embedding.weight"),
    *within(LAYER, "layers.", "encoder.layers.{}."),
    Entry("final_norm.scale", "final_layer_norm.weight"),
    Entry("final_norm.bias", "final_layer_norm.bias"),
)

VISION = (
    Entry("class_token", "embeddings.class_embedding"),
    Entry("positions", "embeddings.position_embedding.weight"),
    Entry("w_patch", "embeddings.patch_embedding.weight", "d c p q -> p q c d"),
    Entry("embedding_norm.scale", "pre_layrnorm.weight"),
    Entry("embedding_norm.bias", "pre_layrnorm.bias"),
    *within(LAYER, "layers.", "encoder.layers.{}."),
    Entry("final_norm.scale", "post_layernorm.weight"),
    Entry("final_norm.bias", "post_layernorm.bias"),
)

ROWS = (
    *within(TEXT, "text.", "text_model."),
    *within(VISION, "vision.", "vision_model."),
    Entry("text_projection.w", "text_projection.weight", "e d -> d e"),
    Entry("image_projection.w", "visual_projection.weight", "e d -> d e"),
    Entry("log_scale", "logit_scale"),
)

CLIP = Family("clip", config, DualEncoder, lambda _: ROWS, ignored=r".*\.embeddings\.position_ids")
