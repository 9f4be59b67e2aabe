"""Qwen 2 and 3 with mixtures of experts (Yang et al. 2024, 2025), in all layers or some.

Qwen 2's have a shared expert with a gate of its own.
"""

from collections.abc import Collection
from dataclasses import replace

from gelu_jax.errors import ConfigError, Problem
from gelu_jax.families.common import sliding_window, with_attention, with_layer_types
from gelu_jax.families.hf_config import HFConfig
from gelu_jax.families.llama import ATTENTION, FEED_FORWARD, LLAMA, decoder_map
from gelu_jax.families.mixtures import (
    OF_TRAINING,
    dense_block,
    mixture,
    num_experts,
    of_feed_forwards,
    with_mixtures,
)
from gelu_jax.families.weight_map import Entry, WeightMap, experts, feed_forward
from gelu_jax.nn.attention import QKNormConfig
from gelu_jax.nn.feed_forward import FeedForwardConfig
from gelu_jax.nn.routers import SoftmaxRouterConfig
from gelu_jax.nn.stack import LayerKind
from gelu_jax.nn.transformer import TransformerConfig


def _qwen2_moe(hf: HFConfig, tensors: Collection[str]) -> TransformerConfig:
    bias = hf.flag("qkv_bias", True)
    hf = hf.with_values(attention_bias=bias).with_defaults(num_key_value_heads=16)
    base = with_attention(LLAMA.config(hf, tensors), out_bias=False)
    base = _with_windows(base, hf)
    expert = _expert(hf, base, 1408)
    shared = replace(expert, d_ff=_width(hf, "shared_expert_intermediate_size", 5632))
    number = hf.with_defaults(num_experts=60).integer("num_experts")
    found = replace(mixture(hf, expert, number, _router(hf), k=4), shared=shared, shared_gate=True)
    return with_mixtures(base, found, _dense_layers(hf, base))


def _qwen3_moe(hf: HFConfig, tensors: Collection[str]) -> TransformerConfig:
    base = LLAMA.config(hf.with_defaults(num_key_value_heads=4), tensors)
    window = sliding_window(hf, base, 4096) if hf.flag("use_sliding_window", False) else None
    norms = QKNormConfig(epsilon=base.block.norm.epsilon)
    base = with_attention(base, qk_norm=norms, window=window)
    number = num_experts(hf, "num_local_experts", "num_experts", 128)
    found = mixture(hf, _expert(hf, base, 768), number, _router(hf), k=8)
    return with_mixtures(base, found, _dense_layers(hf, base))


def _expert(hf: HFConfig, base: TransformerConfig, default: int) -> FeedForwardConfig:
    return replace(dense_block(base), d_ff=_width(hf, "moe_intermediate_size", default))


def _width(hf: HFConfig, name: str, default: int) -> int:
    return hf.with_defaults(**{name: default}).integer(name)


def _router(hf: HFConfig) -> SoftmaxRouterConfig:
    return SoftmaxRouterConfig(renormalize=hf.flag("norm_topk_prob", False))


def _dense_layers(hf: HFConfig, config: TransformerConfig) -> set[int]:
    """Those that are listed, and all but each last one of an interval."""
    every = hf.with_defaults(decoder_sparse_step=1).integer("decoder_sparse_step")
    listed = hf.given("mlp_only_layers") or []
    if not isinstance(listed, list) or not all(isinstance(i, int) for i in listed):
        reason = "must be a list of the numbers of layers"
        raise ConfigError([Problem("mlp_only_layers", listed, reason)])
    return {*listed, *(i for i in range(config.num_layers) if (i + 1) % every)}


def _with_windows(config: TransformerConfig, hf: HFConfig) -> TransformerConfig:
    """Windows, where they are used at all, in every other layer up to a certain one."""
    if not hf.flag("use_sliding_window", False):
        for name in ("max_window_layers", "sliding_window"):  # of no effect
            hf.given(name)
        kinds = {_FULL: LayerKind(None, config.block.attention.rotary)}
        return with_layer_types(config, hf, kinds, [_FULL] * config.num_layers)
    window = sliding_window(hf, config, 4096)
    last = hf.number("max_window_layers", 28) if hf.given("max_window_layers") != 0 else 0
    layers = range(config.num_layers)
    default = [_SLIDING if i % 2 == 0 and i < last else _FULL for i in layers]
    rotary = config.block.attention.rotary
    kinds = {_FULL: LayerKind(None, rotary), _SLIDING: LayerKind(window, rotary)}
    return with_layer_types(config, hf, kinds, default)


_FULL, _SLIDING = "full_attention", "sliding_attention"
BRANCHES = ["gate_proj", "up_proj"]

SPARSE = (
    Entry("feed_forward.router.w", "mlp.gate.weight", "e d -> d e"),
    *experts("feed_forward", "mlp.experts.{expert}", BRANCHES, "down_proj"),
)
_SHARED = (
    *feed_forward(
        "feed_forward.shared",
        [f"mlp.shared_expert.{branch}" for branch in BRANCHES],
        "mlp.shared_expert.down_proj",
    ),
    Entry("feed_forward.shared_gate", "mlp.shared_expert_gate.weight", "1 d -> d 1"),
)


def _weight_map(config: TransformerConfig) -> WeightMap:
    found = config.feed_forwards or (config.block.feed_forward,)
    parts = of_feed_forwards(found, FEED_FORWARD, (*SPARSE, *_SHARED))
    return decoder_map(config, (*ATTENTION, *parts))


QWEN2_MOE = replace(
    LLAMA,
    model_type="qwen2_moe",
    config=_qwen2_moe,
    weight_map=_weight_map,
    without_effect=LLAMA.without_effect | OF_TRAINING,
)
QWEN3_MOE = replace(QWEN2_MOE, model_type="qwen3_moe", config=_qwen3_moe)
