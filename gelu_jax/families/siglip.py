"""SigLIP (Zhai et al. 2023): CLIP's towers without causality or class token, pooled and mapped.

Images are (b, height, width, channels) here; texts are padded to 64 tokens, as in training.
"""

from collections.abc import Collection
from dataclasses import replace

from gelu_jax.families.clip import LAYER
from gelu_jax.families.common import bert_block
from gelu_jax.families.family import Family
from gelu_jax.families.fields import default_fields
from gelu_jax.families.hf_config import HFConfig
from gelu_jax.families.weight_map import (
    Entry,
    WeightMap,
    feed_forward,
    linear,
    norm,
    prefixed,
)
from gelu_jax.nn.block import BlockConfig
from gelu_jax.nn.sigmoid_dual_encoder import (
    ImageTower,
    ImageTowerConfig,
    SigmoidDualEncoder,
    SigmoidDualEncoderConfig,
    TextTower,
    TextTowerConfig,
)
from gelu_jax.nn.transformer import TransformerConfig
from gelu_jax.nn.vision import VisionConfig

_TEXT_KIND, _VISION_KIND = "siglip_text_model", "siglip_vision_model"


def _config(hf: HFConfig, tensors: Collection[str]) -> SigmoidDualEncoderConfig:
    text = hf.section("text_config", _TEXT_KIND)
    vision = hf.section("vision_config", _VISION_KIND)
    vision.require("vision_use_head", True)  # or there is nothing to compare with texts
    return SigmoidDualEncoderConfig(_text(text, tensors), _vision(vision, tensors))


def _text(hf: HFConfig, tensors: Collection[str]) -> TextTowerConfig:
    hf = hf.with_defaults(**default_fields(_TEXT_KIND))
    text = TransformerConfig(
        vocab_size=hf.integer("vocab_size"),
        num_layers=hf.integer("num_hidden_layers"),
        block=_block(hf),
        max_positions=hf.integer("max_position_embeddings"),
        has_head=False,
    )
    return TextTowerConfig(text, hf.integer("projection_size", None) or text.block.d_model)


def _vision(hf: HFConfig, tensors: Collection[str]) -> ImageTowerConfig:
    hf = hf.with_defaults(**default_fields(_VISION_KIND))
    vision = VisionConfig(
        image_size=hf.integer("image_size"),
        patch_size=hf.integer("patch_size"),
        channels=hf.integer("num_channels"),
        num_layers=hf.integer("num_hidden_layers"),
        block=_block(hf),
        class_token=False,
    )
    return ImageTowerConfig(vision, hf.flag("vision_use_head"))


def _block(hf: HFConfig) -> BlockConfig:
    return bert_block(hf, epsilon=1e-6, activation="gelu_tanh", causal=False)


_TEXT = (
    Entry("text.embedding", "text_model.embeddings.token_embedding.weight"),
    Entry("text.positions", "text_model.embeddings.position_embedding.weight"),
    *prefixed(LAYER, "text.layers.", "text_model.encoder.layers.{}."),
    *norm("text.final_norm", "text_model.final_layer_norm"),
    *linear("head.{}", "text_model.head"),
)

_PATCH, _POOL = "vision_model.embeddings.patch_embedding", "vision_model.head.attention"
_PARTS = ("query", "key", "value")

_VISION = (
    Entry("vision.positions", "vision_model.embeddings.position_embedding.weight"),
    Entry("vision.w_patch", f"{_PATCH}.weight", "d c p q -> p q c d"),
    Entry("vision.b_patch", f"{_PATCH}.bias"),
    *prefixed(LAYER, "vision.layers.", "vision_model.encoder.layers.{}."),
    *norm("vision.final_norm", "vision_model.post_layernorm"),
    Entry("head.query", "vision_model.head.probe", "1 1 d -> d"),
    *(
        Entry(f"head.attention.w_{p}", f"{_POOL}.in_proj_weight", "(h k) d -> d h k")
        for p in _PARTS
    ),
    *(Entry(f"head.attention.b_{p}", f"{_POOL}.in_proj_bias", "(h k) -> h k") for p in _PARTS),
    *linear("head.attention.{}_out", f"{_POOL}.out_proj", "d (h k) -> h k d"),
    *norm("head.norm", "vision_model.head.layernorm"),
    *feed_forward("head.feed_forward", ["vision_model.head.mlp.fc1"], "vision_model.head.mlp.fc2"),
)


def _weight_map(_: SigmoidDualEncoderConfig) -> WeightMap:
    return (
        *prefixed(_TEXT, "text.", ""),
        *prefixed(_VISION, "image.", ""),
        Entry("log_scale", "logit_scale", "1 -> "),
        Entry("bias", "logit_bias", "1 -> "),
    )


SIGLIP = Family(
    "siglip",
    _config,
    SigmoidDualEncoder,
    _weight_map,
    ignored=r".*embeddings\.position_ids",
)
SIGLIP_TEXT = replace(
    SIGLIP,
    model_type=_TEXT_KIND,
    config=_text,
    model=TextTower,
    weight_map=lambda _: _TEXT,
    aliases=((r"^text_model\.", ""),),
)
SIGLIP_VISION = replace(
    SIGLIP,
    model_type=_VISION_KIND,
    config=_vision,
    model=ImageTower,
    weight_map=lambda _: _VISION,
    aliases=((r"^vision_model\.", ""),),
)
