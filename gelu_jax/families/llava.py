"""LLaVA (Liu et al. 2023): CLIP's image tower, a projector, LLaMA, Mistral or Qwen 2.

Images are (b, height, width, channels) here.
"""

from collections.abc import Collection

from gelu_jax.errors import ConfigError, Problem
from gelu_jax.families import clip
from gelu_jax.families.family import Family
from gelu_jax.families.fields import default_fields
from gelu_jax.families.hf_config import HFConfig
from gelu_jax.families.llama import LLAMA
from gelu_jax.families.mistral import MISTRAL
from gelu_jax.families.qwen import QWEN2
from gelu_jax.families.weight_map import WeightMap, feed_forward, prefixed
from gelu_jax.nn.vision_language import VisionLanguage, VisionLanguageConfig

_LANGUAGES = {"llama": LLAMA, "mistral": MISTRAL, "qwen2": QWEN2}


def _config(hf: HFConfig, tensors: Collection[str]) -> VisionLanguageConfig:
    kind = hf.section("text_config").one_of("model_type", _LANGUAGES, "llama")
    text = hf.section("text_config", kind).with_defaults(**default_fields(kind))
    tower = hf.section("vision_config", "clip_vision_model")
    tower.require("model_type", "clip_vision_model")
    vision = clip.vision_config(tower)
    kept = hf.one_of("vision_feature_select_strategy", ("default", "full"), "default")
    token = hf.integer("image_token_index", hf.integer("image_token_id", 32000))
    hf.require("image_token_id", token)  # the same by another name
    return VisionLanguageConfig(
        vision=vision,
        language=_LANGUAGES[kind].config(text, tensors),
        image_token=token,
        vision_layers=_num_layers(hf, vision.num_layers),
        projector=hf.activation("projector_hidden_act", "gelu"),
        projector_bias=hf.flag("multimodal_projector_bias", True),
        class_token=kept == "full",
    )


def _num_layers(hf: HFConfig, depth: int) -> int:
    """How many layers to run: their number counts the embedding as 0, or from the end."""
    layer = hf.with_defaults(vision_feature_layer=-2).given("vision_feature_layer")
    if not isinstance(layer, int) or not -depth <= layer <= depth or layer == 0:
        reason = f"must be one of the tower's {depth} layers, from 1 or from -1 on"
        raise ConfigError([Problem("vision_feature_layer", layer, reason)])
    return layer if layer > 0 else depth + 1 + layer


def _weight_map(config: VisionLanguageConfig) -> WeightMap:
    linears = [f"multi_modal_projector.linear_{number}" for number in (1, 2)]
    return (
        *prefixed(clip.VISION, "vision.", "vision_tower."),
        *feed_forward("projector", linears[:1], linears[1]),
        *prefixed(LLAMA.weight_map(config.language), "language.", "language_model."),
    )


LLAVA = Family(
    "llava",
    _config,
    VisionLanguage,
    _weight_map,
    aliases=((r"^vision_tower\.", "vision_tower.vision_model."),),
    ignored=f"{clip.CLIP.ignored}|{LLAMA.ignored}",
    without_effect=clip.CLIP.without_effect | LLAMA.without_effect | {"image_seq_length"},
)
