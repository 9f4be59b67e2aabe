"""SmolLM3 (Bakouch et al. 2025): LLaMA with no positions in every fourth layer."""

from collections.abc import Collection
from dataclasses import replace

from gelu_jax.errors import ConfigError, Problem
from gelu_jax.families.common import sliding_window, with_pattern
from gelu_jax.families.hf_config import HFConfig
from gelu_jax.families.llama import LLAMA
from gelu_jax.nn.stack import LayerKind
from gelu_jax.nn.transformer import TransformerConfig

_DEFAULTS = {"num_key_value_heads": 4, "tie_word_embeddings": True, "rope_theta": 2e6}


def _config(hf: HFConfig, tensors: Collection[str]) -> TransformerConfig:
    hf = hf.with_defaults(**_DEFAULTS)
    base = LLAMA.config(hf, tensors)
    window = sliding_window(hf, base) if hf.flag("use_sliding_window", False) else None
    interval = hf.with_defaults(no_rope_layer_interval=4).integer("no_rope_layer_interval")
    default = [int((i + 1) % interval != 0) for i in range(base.num_layers)]
    placed = hf.given("no_rope_layers") or default
    if len(placed) != base.num_layers or not set(placed) <= {0, 1}:
        reason = f"must be {base.num_layers} numbers, 0 for a layer without positions and 1"
        raise ConfigError([Problem("no_rope_layers", placed, reason)])
    rotary = base.block.attention.rotary
    kinds = [LayerKind(None, rotary) if has else LayerKind(window, None) for has in placed]
    types = ["full_attention" if kind.window is None else "sliding_attention" for kind in kinds]
    if hf.given("layer_types"):
        hf.require("layer_types", types)
    return with_pattern(base, kinds)


SMOLLM3 = replace(LLAMA, model_type="smollm3", config=_config)
