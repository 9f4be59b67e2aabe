"""Qwen 2 and 2.5 (Yang et al. 2024): LLaMA with three biases; Qwen 3 (2025): with QK-norms."""

from collections.abc import Collection
from dataclasses import replace

from gelu_jax.families.common import sliding_window, with_attention, with_layer_types
from gelu_jax.families.hf_config import HFConfig
from gelu_jax.families.llama import LLAMA
from gelu_jax.nn.attention import QKNormConfig
from gelu_jax.nn.stack import LayerKind
from gelu_jax.nn.transformer import TransformerConfig


def _qwen2(hf: HFConfig, tensors: Collection[str]) -> TransformerConfig:
    hf = hf.with_values(attention_bias=True).with_defaults(num_key_value_heads=32)
    return _with_windows(with_attention(LLAMA.config(hf, tensors), out_bias=False), hf)


def _qwen3(hf: HFConfig, tensors: Collection[str]) -> TransformerConfig:
    hf = hf.with_defaults(num_key_value_heads=32, head_dim=128)
    base = LLAMA.config(hf, tensors)
    norms = QKNormConfig(epsilon=base.block.norm.epsilon)
    return _with_windows(with_attention(base, qk_norm=norms), hf)


def _with_windows(config: TransformerConfig, hf: HFConfig) -> TransformerConfig:
    """Windows, where they are used at all, from a certain layer on."""
    window = sliding_window(hf, config, 4096)
    window = window if hf.flag("use_sliding_window", False) else None
    first = hf.number("max_window_layers", 28) if hf.given("max_window_layers") != 0 else 0
    layers = range(config.num_layers)
    default = [_SLIDING if window is not None and i >= first else _FULL for i in layers]
    rotary = config.block.attention.rotary
    kinds = {_FULL: LayerKind(None, rotary), _SLIDING: LayerKind(window, rotary)}
    return with_layer_types(config, hf, kinds, default)


_FULL, _SLIDING = "full_attention", "sliding_attention"

QWEN2 = replace(LLAMA, model_type="qwen2", config=_qwen2)
QWEN3 = replace(LLAMA, model_type="qwen3", config=_qwen3)
