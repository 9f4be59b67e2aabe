"""Phi-3 (Abdin et al. 2024): LLaMA with fused projections, and a window for all layers."""

from collections.abc import Collection
from dataclasses import replace

from gelu_jax.errors import ConfigError, Problem
from gelu_jax.families.common import num_heads, rotated_share, sliding_window, with_attention
from gelu_jax.families.hf_config import HFConfig
from gelu_jax.families.llama import LLAMA, decoder_map
from gelu_jax.families.weight_map import Entry, WeightMap
from gelu_jax.nn.transformer import TransformerConfig


def _config(hf: HFConfig, tensors: Collection[str]) -> TransformerConfig:
    d = hf.integer("hidden_size")
    fraction, hf = rotated_share(hf, hf.integer("head_dim", None) or d // num_heads(hf, d))
    base = LLAMA.config(hf.with_defaults(rms_norm_eps=1e-5), tensors)
    rotary = base.block.attention.rotary
    assert rotary is not None
    if (rotary.scaling, rotary.valid_positions) != (None, None):
        reason = "not supported; Phi-3 has none but longrope, which is not supported"
        raise ConfigError([Problem("rope_parameters", rotary.scaling, reason)])
    rotary = replace(rotary, fraction=fraction)
    return with_attention(base, rotary=rotary, window=sliding_window(hf, base))


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


PHI3 = replace(
    LLAMA,
    model_type="phi3",
    config=_config,
    weight_map=_weight_map,
    # of longrope alone
    without_effect=LLAMA.without_effect | {"original_max_position_embeddings"},
)
