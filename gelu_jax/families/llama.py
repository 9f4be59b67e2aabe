"""LLaMA (Touvron et al. 2023) and what is laid out like it: Mistral, and Gemma but for details."""

from collections.abc import Collection

from gelu_jax.families.common import gated, heads, rotary_config
from gelu_jax.families.family import Family
from gelu_jax.families.hf_config import HFConfig
from gelu_jax.families.weight_map import Entry, within
from gelu_jax.nn.attention import AttentionConfig
from gelu_jax.nn.block import BlockConfig
from gelu_jax.nn.feed_forward import FeedForwardConfig
from gelu_jax.nn.norm import NormConfig
from gelu_jax.nn.transformer import Transformer, TransformerConfig


def config(s: HFConfig, tensors: Collection[str]) -> TransformerConfig:
    """LLaMA's config.json as a config of ours."""
    d = s.integer("hidden_size")
    return TransformerConfig(
        vocab_size=s.integer("vocab_size"),
        num_layers=s.integer("num_hidden_layers"),
        block=BlockConfig(
            NormConfig(d, kind="rms", epsilon=s.number("rms_norm_eps", 1e-6)),
            AttentionConfig(
                d,
                num_heads=heads(s, d),
                num_kv_heads=s.optional("num_key_value_heads"),
                head_dim=s.optional("head_dim"),
                rotary=rotary_config(s),
                use_bias=s.flag("attention_bias", False),
            ),
            FeedForwardConfig(
                d,
                d_ff=s.integer("intermediate_size"),
                variant=gated(s.activation("hidden_act", "silu")),
                use_bias=s.flag("mlp_bias", False),
            ),
        ),
        tie_embeddings=s.flag("tie_word_embeddings", False),
    )


LAYER = (
    Entry("attention_norm.scale", "input_layernorm.weight"),
    Entry("attention.w_query", "self_attn.q_proj.weight", "(h k) d -> d h k"),
    Entry("attention.w_key", "self_attn.k_proj.weight", "(g k) d -> d g k"),
    Entry("attention.w_value", "self_attn.v_proj.weight", "(g k) d -> d g k"),
    Entry("attention.w_out", "self_attn.o_proj.weight", "d (h k) -> h k d"),
    Entry("attention.b_query", "self_attn.q_proj.bias", "(h k) -> h k"),
    Entry("attention.b_key", "self_attn.k_proj.bias", "(g k) -> g k"),
    Entry("attention.b_value", "self_attn.v_proj.bias", "(g k) -> g k"),
    Entry("attention.b_out", "self_attn.o_proj.bias"),
    Entry("feed_forward_norm.scale", "post_attention_layernorm.weight"),
    Entry("feed_forward.w_in.0", "mlp.gate_proj.weight", "f d -> d f"),
    Entry("feed_forward.w_in.1", "mlp.up_proj.weight", "f d -> d f"),
    Entry("feed_forward.w_out", "mlp.down_proj.weight", "d f -> f d"),
    Entry("feed_forward.b_in.0", "mlp.gate_proj.bias"),
    Entry("feed_forward.b_in.1", "mlp.up_proj.bias"),
    Entry("feed_forward.b_out", "mlp.down_proj.bias"),
)

ROWS = (
    Entry("embedding", "model.embed_tokens.weight"),
    *within(LAYER, "layers.", "model.layers.{}."),
    Entry("final_norm.scale", "model.norm.weight"),
    Entry("head", "lm_head.weight"),
)

LLAMA = Family(
    "llama",
    config,
    Transformer,
    lambda _: ROWS,
    ignored=r".*\.rotary_emb\.inv_freq",  # frequencies, once kept as a buffer
    tied=lambda _: {"lm_head.weight": "model.embed_tokens.weight"},
)
