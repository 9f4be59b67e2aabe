"""GPT-2 (Radford et al. 2019): kernels stored (in, out), query, key and value fused."""

from collections.abc import Collection

from gelu_jax.families.common import heads
from gelu_jax.families.family import Family
from gelu_jax.families.hf_config import HFConfig
from gelu_jax.families.weight_map import Entry, within
from gelu_jax.nn.attention import AttentionConfig
from gelu_jax.nn.block import BlockConfig
from gelu_jax.nn.feed_forward import FeedForwardConfig
from gelu_jax.nn.norm import NormConfig
from gelu_jax.nn.transformer import Transformer, TransformerConfig


def config(s: HFConfig, tensors: Collection[str]) -> TransformerConfig:
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


LAYER = (
    Entry("attention_norm.scale", "ln_1.weight"),
    Entry("attention_norm.bias", "ln_1.bias"),
    Entry("attention.w_query", "attn.c_attn.weight", "d (h k) -> d h k", fused=1),
    Entry("attention.w_key", "attn.c_attn.weight", "d (h k) -> d h k", fused=1),
    Entry("attention.w_value", "attn.c_attn.weight", "d (h k) -> d h k", fused=1),
    Entry("attention.b_query", "attn.c_attn.bias", "(h k) -> h k"),
    Entry("attention.b_key", "attn.c_attn.bias", "(h k) -> h k"),
    Entry("attention.b_value", "attn.c_attn.bias", "(h k) -> h k"),
    Entry("attention.w_out", "attn.c_proj.weight", "(h k) d -> h k d"),
    Entry("attention.b_out", "attn.c_proj.bias"),
    Entry("feed_forward_norm.scale", "ln_2.weight"),
    Entry("feed_forward_norm.bias", "ln_2.bias"),
    Entry("feed_forward.w_in.0", "mlp.c_fc.weight"),
    Entry("feed_forward.b_in.0", "mlp.c_fc.bias"),
    Entry("feed_forward.w_out", "mlp.c_proj.weight"),
    Entry("feed_forward.b_out", "mlp.c_proj.bias"),
)

ROWS = (
    Entry("embedding", "transformer.wte.weight"),
    Entry("positions", "transformer.wpe.weight"),
    *within(LAYER, "layers.", "transformer.h.{}."),
    Entry("final_norm.scale", "transformer.ln_f.weight"),
    Entry("final_norm.bias", "transformer.ln_f.bias"),
    Entry("head", "lm_head.weight"),
)

GPT2 = Family(
    "gpt2",
    config,
    Transformer,
    lambda _: ROWS,
    aliases=(("^transformer.", ""),),
    ignored=r"(.*\.)?h\.\d+\.attn\.(bias|masked_bias)",  # the causal mask, once kept as a buffer
    tied=lambda _: {"lm_head.weight": "transformer.wte.weight"},
)
