"""Mixtral (Jiang et al. 2024): Mistral with a mixture of experts in every layer."""

from collections.abc import Collection
from dataclasses import replace

from gelu_jax.families.common import sliding_window, with_attention
from gelu_jax.families.hf_config import HFConfig
from gelu_jax.families.llama import ATTENTION, LLAMA, decoder_map
from gelu_jax.families.mixtures import OF_TRAINING, dense_block, mixture, num_experts, with_mixtures
from gelu_jax.families.weight_map import Entry, WeightMap, experts
from gelu_jax.nn.routers import SoftmaxRouterConfig
from gelu_jax.nn.transformer import TransformerConfig


def _config(hf: HFConfig, tensors: Collection[str]) -> TransformerConfig:
    hf = hf.with_defaults(num_key_value_heads=8, rms_norm_eps=1e-5, rope_theta=1e6)
    base = LLAMA.config(hf, tensors)
    base = with_attention(base, window=sliding_window(hf, base))
    number = num_experts(hf, "num_local_experts", "num_experts", 8)
    router = SoftmaxRouterConfig()
    return with_mixtures(base, mixture(hf, dense_block(base), number, router, k=2))


_PARTS = (
    *ATTENTION,
    Entry("feed_forward.router.w", "block_sparse_moe.gate.weight", "e d -> d e"),
    *experts("feed_forward", "block_sparse_moe.experts.{expert}", ["w1", "w3"], "w2"),
)


def _weight_map(config: TransformerConfig) -> WeightMap:
    return decoder_map(config, _PARTS)


MIXTRAL = replace(
    LLAMA,
    model_type="mixtral",
    config=_config,
    weight_map=_weight_map,
    without_effect=LLAMA.without_effect | OF_TRAINING,
)
