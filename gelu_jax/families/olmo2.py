"""OLMo 2 (OLMo et al. 2025): LLaMA that norms what its parts add, and queries and keys whole."""

from collections.abc import Collection
from dataclasses import replace

from gelu_jax.families.common import with_attention
from gelu_jax.families.hf_config import HFConfig
from gelu_jax.families.llama import LLAMA
from gelu_jax.nn.attention import QKNormConfig
from gelu_jax.nn.transformer import TransformerConfig


def _config(hf: HFConfig, tensors: Collection[str]) -> TransformerConfig:
    base = LLAMA.config(hf.with_defaults(rms_norm_eps=1e-5), tensors)
    norms = QKNormConfig("heads", epsilon=base.block.norm.epsilon)
    base = replace(base, block=replace(base.block, style="branch_norm"))
    return with_attention(base, qk_norm=norms)


OLMO2 = replace(LLAMA, model_type="olmo2", config=_config)
