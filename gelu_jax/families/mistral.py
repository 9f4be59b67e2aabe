"""Mistral (Jiang et al. 2023): LLaMA with a sliding window."""

from collections.abc import Collection
from dataclasses import replace

from gelu_jax.families.hf_config import HFConfig
from gelu_jax.families.llama import LLAMA
from gelu_jax.nn.transformer import TransformerConfig


def _config(hf: HFConfig, tensors: Collection[str]) -> TransformerConfig:
    base = LLAMA.config(hf, tensors)
    window = hf.with_defaults(sliding_window=4096).integer("sliding_window", None)
    attention = replace(base.block.attention, window=window)
    return replace(base, block=replace(base.block, attention=attention))


MISTRAL = replace(LLAMA, model_type="mistral", config=_config)
