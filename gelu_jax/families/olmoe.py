"""OLMoE (Muennighoff et al. 2024): LLaMA with mixtures, and QK-norms over all heads."""

from collections.abc import Collection
from dataclasses import replace

from gelu_jax.families.common import with_attention
from gelu_jax.families.hf_config import HFConfig
from gelu_jax.families.llama import ATTENTION, LLAMA, decoder_map
from gelu_jax.families.mixtures import OF_TRAINING, dense_block, mixture, num_experts, with_mixtures
from gelu_jax.families.qwen_moe import SPARSE
from gelu_jax.families.weight_map import WeightMap
from gelu_jax.nn.attention import QKNormConfig
from gelu_jax.nn.routers import SoftmaxRouterConfig
from gelu_jax.nn.transformer import TransformerConfig


def _config(hf: HFConfig, tensors: Collection[str]) -> TransformerConfig:
    hf.require("clip_qkv", None)
    base = LLAMA.config(hf.with_defaults(rms_norm_eps=1e-5), tensors)
    norms = QKNormConfig("heads", epsilon=base.block.norm.epsilon)
    base = with_attention(base, qk_norm=norms)
    router = SoftmaxRouterConfig(renormalize=hf.flag("norm_topk_prob", False))
    number = num_experts(hf, "num_experts", "num_local_experts", 64)
    return with_mixtures(base, mixture(hf, dense_block(base), number, router, k=8))


def _weight_map(config: TransformerConfig) -> WeightMap:
    return decoder_map(config, (*ATTENTION, *SPARSE))


OLMOE = replace(
    LLAMA,
    model_type="olmoe",
    config=_config,
    weight_map=_weight_map,
    without_effect=LLAMA.without_effect | OF_TRAINING,
)
