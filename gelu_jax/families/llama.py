"""LLaMA (Touvron et al. 2023). Mistral and Gemma are laid out like it."""

from collections.abc import Collection

from gelu_jax.families.common import gated, num_heads, rotary_config
from gelu_jax.families.family import Family
from gelu_jax.families.hf_config import HFConfig
from gelu_jax.families.weight_map import Entry, WeightMap, attention, feed_forward, norm, prefixed
from gelu_jax.nn.attention import AttentionConfig
from gelu_jax.nn.block import BlockConfig
from gelu_jax.nn.feed_forward import FeedForwardConfig
from gelu_jax.nn.norm import NormConfig
from gelu_jax.nn.transformer import Transformer, TransformerConfig


def _config(hf: HFConfig, tensors: Collection[str]) -> TransformerConfig:
    d = hf.integer("hidden_size")
    return TransformerConfig(
        vocab_size=hf.integer("vocab_size"),
        num_layers=hf.integer("num_hidden_layers"),
        block=BlockConfig(
            NormConfig(d, kind="rms", epsilon=hf.number("rms_norm_eps", 1e-6)),
            AttentionConfig(
                d,
                num_heads=num_heads(hf, d),
                num_kv_heads=hf.integer("num_key_value_heads", None),
                head_dim=hf.integer("head_dim", None),
                rotary=rotary_config(hf),
                use_bias=hf.flag("attention_bias", False),
            ),
            FeedForwardConfig(
                d,
                d_ff=hf.integer("intermediate_size"),
                variant=gated(hf.activation("hidden_act", "silu")),
                use_bias=hf.flag("mlp_bias", False),
            ),
        ),
        tie_embeddings=hf.flag("tie_word_embeddings", False),
    )


_LAYER = (
    *norm("attention_norm", "input_layernorm"),
    *attention("attention", "self_attn", "q_proj", "k_proj", "v_proj", "o_proj"),
    *norm("feed_forward_norm", "post_attention_layernorm"),
    *feed_forward("feed_forward", ["mlp.gate_proj", "mlp.up_proj"], "mlp.down_proj"),
)


def _weight_map(_: TransformerConfig) -> WeightMap:
    return (
        Entry("embedding", "model.embed_tokens.weight"),
        *prefixed(_LAYER, "layers.", "model.layers.{}."),
        *norm("final_norm", "model.norm"),
        Entry("head", "lm_head.weight"),
        Entry("embedding", "lm_head.weight"),
    )


LLAMA = Family(
    "llama",
    _config,
    Transformer,
    _weight_map,
    ignored=r".*\.rotary_emb\.inv_freq",  # the frequencies, in old files
)
