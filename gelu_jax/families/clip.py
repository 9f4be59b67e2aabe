"""CLIP (Radford et al. 2021). Images are (b, height, width, channels) here.

OpenAI's weights were trained with quick_gelu, OpenCLIP's with the exact gelu: each config says
which in ``hidden_act``, and one that says nothing means quick_gelu.
"""

from collections.abc import Collection
from typing import Any

from gelu_jax.families.common import bert_block
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
from gelu_jax.nn.block import BlockConfig
from gelu_jax.nn.dual_encoder import DualEncoder, DualEncoderConfig
from gelu_jax.nn.transformer import TransformerConfig
from gelu_jax.nn.vision import VisionConfig

# The first configs have this wrong: their texts end in their largest token.
_WRONG_END = 2

# Published configs leave out what equals these.
_TEXT_DEFAULTS: dict[str, Any] = {
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "vocab_size": 49408,
    "max_position_embeddings": 77,
    "eos_token_id": 49407,
}
_VISION_DEFAULTS: dict[str, Any] = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_channels": 3,
    "image_size": 224,
    "patch_size": 32,
}


def _config(hf: HFConfig, tensors: Collection[str]) -> DualEncoderConfig:
    text = hf.section("text_config").with_defaults(**_TEXT_DEFAULTS)
    end = text.integer("eos_token_id")
    return DualEncoderConfig(
        text=TransformerConfig(
            vocab_size=text.integer("vocab_size"),
            num_layers=text.integer("num_hidden_layers"),
            block=_block(text, causal=True),
            max_positions=text.integer("max_position_embeddings"),
        ),
        vision=vision_config(hf.section("vision_config")),
        d_common=hf.integer("projection_dim", 512),
        end_token=None if end == _WRONG_END else end,
    )


def vision_config(hf: HFConfig) -> VisionConfig:
    """The image tower's section of a config.json as a config of ours.

    Args:
      hf: its fields.

    Returns:
      The tower.
    """
    hf = hf.with_defaults(**_VISION_DEFAULTS)
    return VisionConfig(
        image_size=hf.integer("image_size"),
        patch_size=hf.integer("patch_size"),
        channels=hf.integer("num_channels"),
        num_layers=hf.integer("num_hidden_layers"),
        block=_block(hf, causal=False),
        patch_bias=False,
        embedding_norm=True,
    )


def _block(hf: HFConfig, *, causal: bool) -> BlockConfig:
    return bert_block(hf, epsilon=1e-5, activation="quick_gelu", causal=causal)


_LAYER = (
    *norm("attention_norm", "layer_norm1"),
    *attention("attention", "self_attn", "q_proj", "k_proj", "v_proj", "out_proj"),
    *norm("feed_forward_norm", "layer_norm2"),
    *feed_forward("feed_forward", ["mlp.fc1"], "mlp.fc2"),
)

_TEXT = (
    Entry("embedding", "embeddings.token_embedding.weight"),
    Entry("positions", "embeddings.position_embedding.weight"),
    *prefixed(_LAYER, "layers.", "encoder.layers.{}."),
    *norm("final_norm", "final_layer_norm"),
)

VISION = (
    Entry("class_token", "embeddings.class_embedding"),
    Entry("positions", "embeddings.position_embedding.weight"),
    Entry("w_patch", "embeddings.patch_embedding.weight", "d c p q -> p q c d"),
    *norm("embedding_norm", "pre_layrnorm"),
    *prefixed(_LAYER, "layers.", "encoder.layers.{}."),
    *norm("final_norm", "post_layernorm"),
)


def _weight_map(_: DualEncoderConfig) -> WeightMap:
    return (
        *prefixed(_TEXT, "text.", "text_model."),
        *prefixed(VISION, "vision.", "vision_model."),
        *linear("text_projection.{}", "text_projection"),
        *linear("image_projection.{}", "visual_projection"),
        Entry("log_scale", "logit_scale"),
    )


CLIP = Family("clip", _config, DualEncoder, _weight_map, ignored=r".*\.embeddings\.position_ids")
