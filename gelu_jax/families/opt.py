"""OPT (Zhang et al. 2022): GPT-2's block with relu, and positions from 2 on."""

from collections.abc import Collection

from gelu_jax.families.common import whole_heads
from gelu_jax.families.family import Family
from gelu_jax.families.hf_config import HFConfig
from gelu_jax.families.weight_map import Entry, WeightMap, attention, feed_forward, norm, prefixed
from gelu_jax.nn.attention import AttentionConfig
from gelu_jax.nn.block import BlockConfig
from gelu_jax.nn.feed_forward import FeedForwardConfig
from gelu_jax.nn.norm import NormConfig
from gelu_jax.nn.transformer import Transformer, TransformerConfig

_OFFSET = 2  # rows of its table of positions before the first token's


def _config(hf: HFConfig, tensors: Collection[str]) -> TransformerConfig:
    d = hf.integer("hidden_size")
    if hf.given("word_embed_proj_dim") is not None:
        hf.require("word_embed_proj_dim", d)
    hf.require("layer_norm_elementwise_affine", True)
    hf.require("_remove_final_layer_norm", False)
    biases = hf.flag("enable_bias", True)
    return TransformerConfig(
        vocab_size=hf.integer("vocab_size"),
        num_layers=hf.integer("num_hidden_layers"),
        block=BlockConfig(
            NormConfig(d, use_bias=True, epsilon=1e-5),
            AttentionConfig(d, num_heads=whole_heads(hf, d), use_bias=biases),
            FeedForwardConfig(
                d,
                d_ff=hf.integer("ffn_dim"),
                variant=hf.activation("activation_function", "relu"),
                use_bias=biases,
            ),
            style="pre_norm" if hf.flag("do_layer_norm_before", True) else "post_norm",
        ),
        max_positions=hf.integer("max_position_embeddings") + _OFFSET,
        position_offset=_OFFSET,
        tie_embeddings=hf.flag("tie_word_embeddings", True),
    )


_LAYER = (
    *norm("attention_norm", "self_attn_layer_norm"),
    *attention("attention", "self_attn", "q_proj", "k_proj", "v_proj", "out_proj"),
    *norm("feed_forward_norm", "final_layer_norm"),
    *feed_forward("feed_forward", ["fc1"], "fc2"),
)


def _weight_map(_: TransformerConfig) -> WeightMap:
    return (
        Entry("embedding", "model.decoder.embed_tokens.weight"),
        Entry("positions", "model.decoder.embed_positions.weight"),
        *prefixed(_LAYER, "layers.", "model.decoder.layers.{}."),
        *norm("final_norm", "model.decoder.final_layer_norm"),
        Entry("head", "lm_head.weight"),
        Entry("embedding", "lm_head.weight"),
    )


OPT = Family(
    "opt",
    _config,
    Transformer,
    _weight_map,
    aliases=((r"^model\.", ""),),
    without_effect=frozenset({"init_std", "layerdrop"}),
)
