"""Mistral (Jiang et al. 2023): LLaMA with a sliding window."""

from collections.abc import Collection
from dataclasses import replace

from gelu_jax.families.common import sliding_window, with_attention
from gelu_jax.families.hf_config import HFConfig
from gelu_jax.families.llama import LLAMA
from gelu_jax.nn.transformer import TransformerConfig


def _config(hf: HFConfig, tensors: Collection[str]) -> TransformerConfig:
    base = LLAMA.config(hf.with_defaults(num_key_value_heads=8), tensors)
    return with_attention(base, window=sliding_window(hf, base, 4096))


MISTRAL = replace(LLAMA, model_type="mistral", config=_config)
