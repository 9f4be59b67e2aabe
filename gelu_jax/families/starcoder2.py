"""StarCoder 2 (Lozhkov et al. 2024): LLaMA with LayerNorms, biases and an ungated feed-forward."""

from collections.abc import Collection
from dataclasses import replace

from gelu_jax.families.common import sliding_window, with_attention
from gelu_jax.families.hf_config import HFConfig
from gelu_jax.families.llama import LLAMA, decoder_map
from gelu_jax.families.weight_map import WeightMap, attention, feed_forward
from gelu_jax.nn.norm import NormConfig
from gelu_jax.nn.transformer import TransformerConfig


def _config(hf: HFConfig, tensors: Collection[str]) -> TransformerConfig:
    hf = hf.with_defaults(num_key_value_heads=2, tie_word_embeddings=True)
    bias = hf.flag("use_bias", True)
    base = LLAMA.config(hf.with_values(attention_bias=bias, mlp_bias=bias), tensors)
    act = hf.activation("hidden_act", "gelu_tanh")
    block = replace(
        base.block,
        norm=NormConfig(base.block.d_model, use_bias=True, epsilon=hf.number("norm_epsilon", 1e-5)),
        feed_forward=replace(base.block.feed_forward, variant=act),
    )
    return with_attention(replace(base, block=block), window=sliding_window(hf, base))


_PARTS = (
    *attention("attention", "self_attn", "q_proj", "k_proj", "v_proj", "o_proj"),
    *feed_forward("feed_forward", ["mlp.c_fc"], "mlp.c_proj"),
)


def _weight_map(config: TransformerConfig) -> WeightMap:
    return decoder_map(config, _PARTS)


STARCODER2 = replace(LLAMA, model_type="starcoder2", config=_config, weight_map=_weight_map)
