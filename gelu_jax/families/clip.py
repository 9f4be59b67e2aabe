"""CLIP (Radford et al. 2021). Images are (b, height, width, channels) here.

OpenAI's weights were trained with quick_gelu, OpenCLIP's with the exact gelu: each config says
which in ``hidden_act``, and one that says nothing means quick_gelu.
"""

from collections.abc import Collection
from dataclasses import replace

from gelu_jax.families.common import bert_block
from gelu_jax.families.family import Family
from gelu_jax.families.fields import default_fields
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
from gelu_jax.nn.transformer import Transformer, TransformerConfig
from gelu_jax.nn.vision import VisionConfig, VisionTransformer

# The first configs have this wrong: their texts end in their largest token.
_WRONG_END = 2


def _config(hf: HFConfig, tensors: Collection[str]) -> DualEncoderConfig:
    text = _tower(hf, "text").with_defaults(**default_fields("clip_text_model"))
    end = text.integer("eos_token_id")
    return DualEncoderConfig(
        text=_text(text),
        vision=vision_config(_tower(hf, "vision")),
        d_common=hf.integer("projection_dim", 512),
        end_token=None if end == _WRONG_END else end,
    )


def _tower(hf: HFConfig, name: str) -> HFConfig:
    """The section of one tower; files of old say it twice, and then the second one holds."""
    kind, again = f"clip_{name}_model", hf.given(f"{name}_config_dict")
    if again is not None:
        twice = hf.section(f"{name}_config").values if hf.given(f"{name}_config") else {}
        section = {**twice, **default_fields(kind), **hf.section(f"{name}_config_dict").values}
        hf = hf.with_values(**{f"{name}_config": section})
    return hf.section(f"{name}_config", kind)


def _text_alone(hf: HFConfig, tensors: Collection[str]) -> TransformerConfig:
    """Such as the text encoder of an image generator, which takes its hidden states."""
    text = hf.with_defaults(**default_fields("clip_text_model"))
    return replace(_text(text), has_head=False)


def _text(hf: HFConfig) -> TransformerConfig:
    return TransformerConfig(
        vocab_size=hf.integer("vocab_size"),
        num_layers=hf.integer("num_hidden_layers"),
        block=_block(hf, causal=True),
        max_positions=hf.integer("max_position_embeddings"),
    )


def _vision_alone(hf: HFConfig, tensors: Collection[str]) -> VisionConfig:
    return vision_config(hf)


def vision_config(hf: HFConfig) -> VisionConfig:
    """The image tower's section of a config.json as a config of ours.

    Args:
      hf: its fields.

    Returns:
      The tower.
    """
    hf = hf.with_defaults(**default_fields("clip_vision_model"))
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


LAYER = (
    *norm("attention_norm", "layer_norm1"),
    *attention("attention", "self_attn", "q_proj", "k_proj", "v_proj", "out_proj"),
    *norm("feed_forward_norm", "layer_norm2"),
    *feed_forward("feed_forward", ["mlp.fc1"], "mlp.fc2"),
)

_TEXT = (
    Entry("embedding", "embeddings.token_embedding.weight"),
    Entry("positions", "embeddings.position_embedding.weight"),
    *prefixed(LAYER, "layers.", "encoder.layers.{}."),
    *norm("final_norm", "final_layer_norm"),
)

VISION = (
    Entry("class_token", "embeddings.class_embedding"),
    Entry("positions", "embeddings.position_embedding.weight"),
    Entry("w_patch", "embeddings.patch_embedding.weight", "d c p q -> p q c d"),
    *norm("embedding_norm", "pre_layrnorm"),
    *prefixed(LAYER, "layers.", "encoder.layers.{}."),
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


CLIP = Family(
    "clip",
    _config,
    DualEncoder,
    _weight_map,
    ignored=r".*\.embeddings\.position_ids",
    without_effect=frozenset(
        {"projection_dim", "logit_scale_init_value"}
    ),  # in the towers' sections
)
CLIP_TEXT = replace(
    CLIP,
    model_type="clip_text_model",
    config=_text_alone,
    model=Transformer,
    weight_map=lambda _: prefixed(_TEXT, "", "text_model."),
    aliases=((r"^text_model\.", ""),),
)
CLIP_VISION = replace(
    CLIP,
    model_type="clip_vision_model",
    config=_vision_alone,
    model=VisionTransformer,
    weight_map=lambda _: prefixed(VISION, "", "vision_model."),
    aliases=((r"^vision_model\.", ""),),
)
