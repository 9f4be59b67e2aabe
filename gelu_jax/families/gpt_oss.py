"""gpt-oss (OpenAI 2025): mixtures of clamped SwiGLUs; attention with sinks and windows."""

from collections.abc import Collection, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from gelu_jax.families.common import sliding_window, with_attention, with_layer_types
from gelu_jax.families.hf_config import HFConfig
from gelu_jax.families.llama import ATTENTION, LLAMA, decoder_map
from gelu_jax.families.mixtures import (
    OF_TRAINING,
    dense_block,
    mixture,
    num_experts,
    with_mixtures,
)
from gelu_jax.families.weight_map import Entry, WeightMap
from gelu_jax.nn.branches import gpt_oss_swiglu
from gelu_jax.nn.feed_forward import FeedForwardConfig
from gelu_jax.nn.routers import TopKSoftmaxRouterConfig
from gelu_jax.nn.stack import LayerKind
from gelu_jax.nn.transformer import TransformerConfig

_YARN: Mapping[str, Any] = MappingProxyType(
    {
        "rope_type": "yarn",
        "factor": 32.0,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "truncate": False,
        "original_max_position_embeddings": 4096,
    }
)
_DEFAULTS: Mapping[str, Any] = MappingProxyType(
    {
        "num_key_value_heads": 8,
        "head_dim": 64,
        "rms_norm_eps": 1e-5,
        "attention_bias": True,
        "rope_theta": 150_000.0,
        "hidden_act": "silu",
    }
)


def _config(hf: HFConfig, tensors: Collection[str]) -> TransformerConfig:
    hf = hf.with_defaults(**_DEFAULTS)
    if hf.given("rope_parameters") is None and hf.given("rope_scaling") is None:
        hf = hf.with_values(rope_parameters=dict(_YARN))
    base = with_attention(LLAMA.config(hf, tensors), sinks=True)
    number = num_experts(hf, "num_local_experts", "num_experts", 128)
    found = mixture(hf, _expert(hf, base), number, TopKSoftmaxRouterConfig(), k=4)
    rotary = base.block.attention.rotary
    kinds = {
        "sliding_attention": LayerKind(sliding_window(hf, base, 128), rotary),
        "full_attention": LayerKind(None, rotary),
    }
    default = [list(kinds)[i % 2] for i in range(base.num_layers)]
    return with_mixtures(with_layer_types(base, hf, kinds, default), found)


def _expert(hf: HFConfig, base: TransformerConfig) -> FeedForwardConfig:
    """What is computed does not depend on ``hidden_act``."""
    hf.require("swiglu_alpha", 1.702)
    limit = hf.number("swiglu_limit", 7.0)
    variant = "swiglu_gpt_oss" if limit == 7.0 else gpt_oss_swiglu(limit)
    return replace(dense_block(base), variant=variant, use_bias=True)


_FUSED, _BIAS = "mlp.experts.gate_up_proj", "mlp.experts.gate_up_proj_bias"
_KERNEL, _ENTRY = "e d (f n) -> e d (n f)", "e (f n) -> e (n f)"  # interleaved in files

_PARTS = (
    *ATTENTION,
    Entry("attention.sinks", "self_attn.sinks"),
    Entry("feed_forward.router.w", "mlp.router.weight", "e d -> d e"),
    Entry("feed_forward.router.b", "mlp.router.bias"),
    *(
        Entry(f"feed_forward.experts.w_in_{i}", _FUSED, "e d f -> e d f", 2, _KERNEL)
        for i in (0, 1)
    ),
    *(Entry(f"feed_forward.experts.b_in_{i}", _BIAS, "e f -> e f", 1, _ENTRY) for i in (0, 1)),
    Entry("feed_forward.experts.w_out", "mlp.experts.down_proj"),
    Entry("feed_forward.experts.b_out", "mlp.experts.down_proj_bias"),
)


def _weight_map(config: TransformerConfig) -> WeightMap:
    return decoder_map(config, _PARTS)


GPT_OSS = replace(
    LLAMA,
    model_type="gpt_oss",
    config=_config,
    weight_map=_weight_map,
    without_effect=LLAMA.without_effect | OF_TRAINING | {"hidden_act"},
)
