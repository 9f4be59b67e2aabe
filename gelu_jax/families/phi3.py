"""Phi-3 (Abdin et al. 2024): LLaMA with fused projections, and a window for all layers."""

from collections.abc import Collection
from dataclasses import replace
from typing import Any, cast

from gelu_jax.errors import ConfigError, Problem
from gelu_jax.families.common import (
    num_heads,
    rotary_config,
    rotated_share,
    sliding_window,
    with_attention,
)
from gelu_jax.families.hf_config import HFConfig
from gelu_jax.families.llama import LLAMA, decoder_map
from gelu_jax.families.weight_map import Entry, WeightMap
from gelu_jax.nn.position import LongRopeScaling
from gelu_jax.nn.transformer import TransformerConfig

_DEFAULTS = {
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 4096,
    "original_max_position_embeddings": 4096,
}


def _config(hf: HFConfig, tensors: Collection[str]) -> TransformerConfig:
    hf = hf.with_defaults(**_DEFAULTS)
    d = hf.integer("hidden_size")
    fraction, hf = rotated_share(hf, hf.integer("head_dim", None) or d // num_heads(hf, d))
    rotary = replace(rotary_config(_new_names(hf)), fraction=fraction)
    if not isinstance(rotary.scaling, LongRopeScaling | None) or rotary.valid_positions:
        reason = "not supported; Phi-3 has none but longrope"
        raise ConfigError([Problem("rope_parameters", rotary.scaling, reason)])
    base = LLAMA.config(hf.with_values(rope_parameters=None, rope_scaling=None), tensors)
    return with_attention(base, rotary=rotary, window=sliding_window(hf, base))


def _new_names(hf: HFConfig) -> HFConfig:
    """The fields with what files of old call su or yarn under its name of today."""
    ropes = {name: hf.given(name) for name in ("rope_parameters", "rope_scaling")}
    return hf.with_values(**{name: _new_name(rope) for name, rope in ropes.items()})


def _new_name(rope: Any) -> Any:
    if not isinstance(rope, dict):
        return rope
    fields = cast(dict[str, Any], rope)
    key = "rope_type" if "rope_type" in fields else "type"
    return fields | {key: "longrope"} if fields.get(key) in ("su", "yarn") else fields


_ATTENTION, _MLP = "self_attn.qkv_proj.weight", "mlp.gate_up_proj.weight"

_PARTS = (
    Entry("attention.w_query", _ATTENTION, "(h k) d -> d h k"),
    Entry("attention.w_key", _ATTENTION, "(g k) d -> d g k"),
    Entry("attention.w_value", _ATTENTION, "(g k) d -> d g k"),
    Entry("attention.w_out", "self_attn.o_proj.weight", "d (h k) -> h k d"),
    Entry("feed_forward.w_in_0", _MLP, "f d -> d f"),
    Entry("feed_forward.w_in_1", _MLP, "f d -> d f"),
    Entry("feed_forward.w_out", "mlp.down_proj.weight", "d f -> f d"),
)


def _weight_map(config: TransformerConfig) -> WeightMap:
    return decoder_map(config, _PARTS)


PHI3 = replace(LLAMA, model_type="phi3", config=_config, weight_map=_weight_map)
