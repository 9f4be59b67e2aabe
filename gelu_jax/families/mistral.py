"""Mistral (Jiang et al. 2023): LLaMA with a sliding window."""

from collections.abc import Collection
from dataclasses import replace

from gelu_jax.families.common import with_attention
from gelu_jax.families.hf_config import HFConfig
from gelu_jax.families.llama import LLAMA
from gelu_jax.nn.transformer import TransformerConfig


def _config(hf: HFConfig, tensors: Collection[str]) -> TransformerConfig:
    base = LLAMA.config(hf.with_defaults(num_key_value_heads=8), tensors)
    window = hf.with_defaults(sliding_window=4096).integer("sliding_window", None)
    if window is not None and not base.block.attention.causal:
        window += 1  # which transformers counts otherwise there
    return with_attention(base, window=window)


MISTRAL = replace(LLAMA, model_type="mistral", config=_config)
