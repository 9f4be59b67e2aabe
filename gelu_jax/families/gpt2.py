"""GPT-2 (Radford et al. 2019): kernels stored (in, out), query, key and value in one."""

from collections.abc import Collection

from gelu_jax.families.common import whole_heads
from gelu_jax.families.family import Family
from gelu_jax.families.hf_config import HFConfig
from gelu_jax.families.weight_map import Entry, WeightMap, linear, norm, prefixed
from gelu_jax.nn.attention import AttentionConfig
from gelu_jax.nn.block import BlockConfig
from gelu_jax.nn.feed_forward import FeedForwardConfig
from gelu_jax.nn.norm import NormConfig
from gelu_jax.nn.transformer import Transformer, TransformerConfig


def _config(hf: HFConfig, tensors: Collection[str]) -> TransformerConfig:
    hf.require("scale_attn_by_inverse_layer_idx", False)
    hf.require("add_cross_attention", False)
    d = hf.integer("n_embd")
    return TransformerConfig(
        vocab_size=hf.integer("vocab_size"),
        num_layers=hf.integer("n_layer"),
        block=BlockConfig(
            NormConfig(d, use_bias=True, epsilon=hf.number("layer_norm_epsilon", 1e-5)),
            AttentionConfig(
                d,
                num_heads=whole_heads(hf, d, "n_head"),
                scale=None if hf.flag("scale_attn_weights", True) else 1.0,
                use_bias=True,
            ),
            FeedForwardConfig(
                d,
                d_ff=hf.integer("n_inner", None) or 4 * d,
                variant=hf.activation("activation_function", "gelu_new"),
                use_bias=True,
            ),
        ),
        max_positions=hf.integer("n_positions"),
        tie_embeddings=hf.flag("tie_word_embeddings", True),
    )


_LAYER = (
    *norm("attention_norm", "ln_1"),
    Entry("attention.w_query", "attn.c_attn.weight", "d (h k) -> d h k", axis=1),
    Entry("attention.w_key", "attn.c_attn.weight", "d (h k) -> d h k", axis=1),
    Entry("attention.w_value", "attn.c_attn.weight", "d (h k) -> d h k", axis=1),
    Entry("attention.b_query", "attn.c_attn.bias", "(h k) -> h k"),
    Entry("attention.b_key", "attn.c_attn.bias", "(h k) -> h k"),
    Entry("attention.b_value", "attn.c_attn.bias", "(h k) -> h k"),
    *linear("attention.{}_out", "attn.c_proj", "(h k) d -> h k d"),
    *norm("feed_forward_norm", "ln_2"),
    *linear("feed_forward.{}_in_0", "mlp.c_fc", "d f -> d f"),
    *linear("feed_forward.{}_out", "mlp.c_proj", "f d -> f d"),
)


def _weight_map(_: TransformerConfig) -> WeightMap:
    return (
        Entry("embedding", "transformer.wte.weight"),
        Entry("positions", "transformer.wpe.weight"),
        *prefixed(_LAYER, "layers.", "transformer.h.{}."),
        *norm("final_norm", "transformer.ln_f"),
        Entry("head", "lm_head.weight"),
        Entry("embedding", "lm_head.weight"),
    )


GPT2 = Family(
    "gpt2",
    _config,
    Transformer,
    _weight_map,
    aliases=((r"^transformer\.", ""),),
    ignored=r"(.*\.)?h\.\d+\.attn\.(bias|masked_bias)",  # the causal mask, in old files
    without_effect=frozenset(
        {
            *("summary_activation", "summary_first_dropout", "summary_proj_to_labels"),
            *("summary_type", "summary_use_proj"),  # of a head that is not supported
            "reorder_and_upcast_attn",  # float32 scores, which are computed anyway
        }
    ),
)
