"""LLaVA (Liu et al. 2023): CLIP's image tower, a projector, LLaMA or one of its kind.

Images are (b, height, width, channels) here.
"""

from collections.abc import Callable, Collection, Mapping

from gelu_jax.errors import ConfigError, Problem
from gelu_jax.families import clip, llama, mistral
from gelu_jax.families.family import Family
from gelu_jax.families.hf_config import HFConfig
from gelu_jax.families.weight_map import Entry, within
from gelu_jax.nn.transformer import TransformerConfig
from gelu_jax.nn.vision_language import VisionLanguage, VisionLanguageConfig

_LANGUAGES: Mapping[str, Callable[[HFConfig, Collection[str]], TransformerConfig]] = {
    "llama": llama.config,
    "mistral": mistral.config,
}

# Published configs leave out what equals these: the image tower of 336 pixels, LLaMA 7B.
_LLAMA = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
}


def config(s: HFConfig, tensors: Collection[str]) -> VisionLanguageConfig:
    """LLaVA's config.json as a config of ours."""
    text = s.section("text_config").with_defaults(**_LLAMA)
    family = text.one_of("model_type", _LANGUAGES, "llama")
    s.section("vision_config").only("model_type", "clip_vision_model")
    vision = clip.vision_config(s.section("vision_config"))
    kept = s.one_of("vision_feature_select_strategy", ("default", "full"), "default")
    return VisionLanguageConfig(
        vision=vision,
        language=_LANGUAGES[family](text, tensors),
        image_token=s.integer("image_token_index", s.integer("image_token_id", 32000)),
        vision_layers=_layers(s, vision.num_layers),
        projector=s.activation("projector_hidden_act", "gelu"),
        projector_bias=s.flag("multimodal_projector_bias", True),
        class_token=kept == "full",
    )


def _layers(s: HFConfig, depth: int) -> int:
    """The layers to run: they count the embedding as state 0, and may count from the end."""
    layer = s.values.get("vision_feature_layer", -2)
    if not isinstance(layer, int) or not -depth <= layer <= depth or layer == 0:
        reason = f"must be one of the tower's {depth} layers; nearest: -2"
        raise ConfigError([Problem("vision_feature_layer", layer, reason)])
    return layer if layer > 0 else depth + 1 + layer


ROWS = (
    *within(clip.VISION, "vision.", "vision_tower."),
    Entry("projector.w_in.0", "multi_modal_projector.linear_1.weight", "e d -> d e"),
    Entry("projector.b_in.0", "multi_modal_projector.linear_1.bias"),
    Entry("projector.w_out", "multi_modal_projector.linear_2.weight", "f e -> e f"),
    Entry("projector.b_out", "multi_modal_projector.linear_2.bias"),
    *within(llama.ROWS, "language.", "language_model."),
)

LLAVA = Family(
    "llava",
    config,
    VisionLanguage,
    lambda _: ROWS,
    aliases=(("^vision_tower.", "vision_tower.vision_model."),),
    ignored=r".*(\.embeddings\.position_ids|\.rotary_emb\.inv_freq)",
    tied=lambda _: {"language_model.lm_head.weight": "language_model.model.embed_tokens.weight"},
)
