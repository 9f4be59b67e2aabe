"""Mistral (Jiang et al. 2023): LLaMA with a sliding window."""

from collections.abc import Collection
from dataclasses import replace

from gelu_jax.families import llama
from gelu_jax.families.hf_config import HFConfig
from gelu_jax.nn.transformer import TransformerConfig


def config(s: HFConfig, tensors: Collection[str]) -> TransformerConfig:
    """Mistral's config.json as a config of ours."""
    base = llama.config(s, tensors)
    window = s.optional("sliding_window") if "sliding_window" in s.values else 4096
    attention = replace(base.block.attention, window=window)
    return replace(base, block=replace(base.block, attention=attention))


MISTRAL = replace(llama.LLAMA, model_type="mistral", config=config)
