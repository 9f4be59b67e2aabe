"""LLaMA (Touvron et al. 2023) and what is laid out like it: Mistral, and Gemma but for details."""

from collections.abc import Collection

from gelu_jax.families.common import heads, rotary_config
from gelu_jax.families.family import Family
from gelu_jax.families.settings import Settings
from gelu_jax.families.table import Row
from gelu_jax.nn.attention import AttentionConfig
from gelu_jax.nn.block import BlockConfig
from gelu_jax.nn.feed_forward import FeedForwardConfig
from gelu_jax.nn.norm import NormConfig
from gelu_jax.nn.transformer import Transformer, TransformerConfig


def config(s: Settings, tensors: Collection[str]) -> TransformerConfig:
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
                variant=(s.activation("hidden_act", "silu"), "identity"),
                use_bias=s.flag("mlp_bias", False),
            ),
        ),
        tie_embeddings=s.flag("tie_word_embeddings", False),
    )


ROWS = (
    Row("embedding", "model.embed_tokens.weight"),
    Row("layers.attention_norm.scale", "model.layers.{}.input_layernorm.weight"),
    Row("layers.attention.w_query", "model.layers.{}.self_attn.q_proj.weight", "(h k) d -> d h k"),
    Row("layers.attention.w_key", "model.layers.{}.self_attn.k_proj.weight", "(g k) d -> d g k"),
    Row("layers.attention.w_value", "model.layers.{}.self_attn.v_proj.weight", "(g k) d -> d g k"),
    Row("layers.attention.w_out", "model.layers.{}.self_attn.o_proj.weight", "d (h k) -> h k d"),
    Row("layers.attention.b_query", "model.layers.{}.self_attn.q_proj.bias", "(h k) -> h k"),
    Row("layers.attention.b_key", "model.layers.{}.self_attn.k_proj.bias", "(g k) -> g k"),
    Row("layers.attention.b_value", "model.layers.{}.self_attn.v_proj.bias", "(g k) -> g k"),
    Row("layers.attention.b_out", "model.layers.{}.self_attn.o_proj.bias"),
    Row("layers.feed_forward_norm.scale", "model.layers.{}.post_attention_layernorm.weight"),
    Row("layers.feed_forward.w_in.0", "model.layers.{}.mlp.gate_proj.weight", "f d -> d f"),
    Row("layers.feed_forward.w_in.1", "model.layers.{}.mlp.up_proj.weight", "f d -> d f"),
    Row("layers.feed_forward.w_out", "model.layers.{}.mlp.down_proj.weight", "d f -> f d"),
    Row("layers.feed_forward.b_in.0", "model.layers.{}.mlp.gate_proj.bias"),
    Row("layers.feed_forward.b_in.1", "model.layers.{}.mlp.up_proj.bias"),
    Row("layers.feed_forward.b_out", "model.layers.{}.mlp.down_proj.bias"),
    Row("final_norm.scale", "model.norm.weight"),
    Row("head", "lm_head.weight"),
)

LLAMA = Family(
    "llama",
    config,
    Transformer,
    lambda _: ROWS,
    ignored=r".*\.rotary_emb\.inv_freq",  # frequencies, once kept as a buffer
    copies={"lm_head.weight": "model.embed_tokens.weight"},
)
