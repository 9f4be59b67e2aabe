"""GPT-2 (Radford et al. 2019): kernels stored (in, out), query, key and value fused."""

from collections.abc import Collection

from gelu_jax.families.common import heads
from gelu_jax.families.family import Family
from gelu_jax.families.settings import Settings
from gelu_jax.families.table import Row
from gelu_jax.nn.attention import AttentionConfig
from gelu_jax.nn.block import BlockConfig
from gelu_jax.nn.feed_forward import FeedForwardConfig
from gelu_jax.nn.norm import NormConfig
from gelu_jax.nn.transformer import Transformer, TransformerConfig


def config(s: Settings, tensors: Collection[str]) -> TransformerConfig:
    """GPT-2's config.json as a config of ours."""
    s.only("scale_attn_by_inverse_layer_idx", False)
    s.only("add_cross_attention", False)
    d = s.integer("n_embd")
    return TransformerConfig(
        vocab_size=s.integer("vocab_size"),
        num_layers=s.integer("n_layer"),
        block=BlockConfig(
            NormConfig(d, use_bias=True, epsilon=s.number("layer_norm_epsilon", 1e-5)),
            AttentionConfig(
                d,
                num_heads=heads(s, d, "n_head"),
                scale=None if s.flag("scale_attn_weights", True) else 1.0,
                use_bias=True,
            ),
            FeedForwardConfig(
                d,
                d_ff=s.optional("n_inner") or 4 * d,
                variant=s.activation("activation_function", "gelu_new"),
                use_bias=True,
            ),
        ),
        max_positions=s.integer("n_positions"),
        tie_embeddings=s.flag("tie_word_embeddings", True),
    )


_QKV, _QKV_BIAS = "transformer.h.{}.attn.c_attn.weight", "transformer.h.{}.attn.c_attn.bias"

ROWS = (
    Row("embedding", "transformer.wte.weight"),
    Row("positions", "transformer.wpe.weight"),
    Row("layers.attention_norm.scale", "transformer.h.{}.ln_1.weight"),
    Row("layers.attention_norm.bias", "transformer.h.{}.ln_1.bias"),
    Row("layers.attention.w_query", _QKV, "d (h k) -> d h k", fused=1),
    Row("layers.attention.w_key", _QKV, "d (h k) -> d h k", fused=1),
    Row("layers.attention.w_value", _QKV, "d (h k) -> d h k", fused=1),
    Row("layers.attention.b_query", _QKV_BIAS, "(h k) -> h k"),
    Row("layers.attention.b_key", _QKV_BIAS, "(h k) -> h k"),
    Row("layers.attention.b_value", _QKV_BIAS, "(h k) -> h k"),
    Row("layers.attention.w_out", "transformer.h.{}.attn.c_proj.weight", "(h k) d -> h k d"),
    Row("layers.attention.b_out", "transformer.h.{}.attn.c_proj.bias"),
    Row("layers.feed_forward_norm.scale", "transformer.h.{}.ln_2.weight"),
    Row("layers.feed_forward_norm.bias", "transformer.h.{}.ln_2.bias"),
    Row("layers.feed_forward.w_in.0", "transformer.h.{}.mlp.c_fc.weight"),
    Row("layers.feed_forward.b_in.0", "transformer.h.{}.mlp.c_fc.bias"),
    Row("layers.feed_forward.w_out", "transformer.h.{}.mlp.c_proj.weight"),
    Row("layers.feed_forward.b_out", "transformer.h.{}.mlp.c_proj.bias"),
    Row("final_norm.scale", "transformer.ln_f.weight"),
    Row("final_norm.bias", "transformer.ln_f.bias"),
    Row("head", "lm_head.weight"),
)

GPT2 = Family(
    "gpt2",
    config,
    Transformer,
    lambda _: ROWS,
    spellings=(("^transformer.", ""),),
    ignored=r"(.*\.)?h\.\d+\.attn\.(bias|masked_bias)",  # the causal mask, once kept as a buffer
    copies={"lm_head.weight": "transformer.wte.weight"},
)
