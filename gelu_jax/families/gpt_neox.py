"""GPT-NeoX (Black et al. 2022) and Pythia: the parts side by side, a share of each head rotated."""

from collections.abc import Collection
from dataclasses import replace

from gelu_jax.families.common import rotary_config, rotated_share, whole_heads
from gelu_jax.families.family import Family
from gelu_jax.families.hf_config import HFConfig
from gelu_jax.families.weight_map import (
    Entry,
    WeightMap,
    feed_forward,
    fused_attention,
    norm,
    prefixed,
)
from gelu_jax.nn.attention import AttentionConfig
from gelu_jax.nn.block import BlockConfig
from gelu_jax.nn.feed_forward import FeedForwardConfig
from gelu_jax.nn.norm import NormConfig
from gelu_jax.nn.transformer import Transformer, TransformerConfig


def _config(hf: HFConfig, tensors: Collection[str]) -> TransformerConfig:
    d = hf.integer("hidden_size")
    heads = whole_heads(hf, d)
    fraction, hf = rotated_share(_new_names(hf), d // heads, 0.25)
    biases = hf.flag("attention_bias", True)
    rotary = replace(rotary_config(hf), fraction=fraction)
    return TransformerConfig(
        vocab_size=hf.integer("vocab_size"),
        num_layers=hf.integer("num_hidden_layers"),
        block=BlockConfig(
            NormConfig(d, use_bias=True, epsilon=hf.number("layer_norm_eps", 1e-5)),
            AttentionConfig(d, num_heads=heads, rotary=rotary, use_bias=biases),
            FeedForwardConfig(
                d,
                d_ff=hf.integer("intermediate_size"),
                variant=hf.activation("hidden_act", "gelu"),
                use_bias=True,
            ),
            style="parallel_norms" if hf.flag("use_parallel_residual", True) else "pre_norm",
        ),
        tie_embeddings=hf.flag("tie_word_embeddings", False),
        has_head="embed_in.weight" not in tensors,
    )


def _new_names(hf: HFConfig) -> HFConfig:
    """The fields with what files of old call rotary_emb_base and rotary_pct as others call it."""
    old = {"rope_theta": "rotary_emb_base", "partial_rotary_factor": "rotary_pct"}
    given = {name: hf.given(theirs) for name, theirs in old.items()}
    return hf.with_values(**{name: None for name in old} | given)


_LAYER = (
    *norm("attention_norm", "input_layernorm"),
    *fused_attention(
        "attention",
        "attention",
        "query_key_value",
        "dense",
        whole="(h n k) ... -> (n h k) ...",
    ),
    *norm("feed_forward_norm", "post_attention_layernorm"),
    *feed_forward("feed_forward", ["mlp.dense_h_to_4h"], "mlp.dense_4h_to_h"),
)


def _weight_map(_: TransformerConfig) -> WeightMap:
    return (
        Entry("embedding", "gpt_neox.embed_in.weight"),
        *prefixed(_LAYER, "layers.", "gpt_neox.layers.{}."),
        *norm("final_norm", "gpt_neox.final_layer_norm"),
        Entry("head", "embed_out.weight"),
        Entry("embedding", "embed_out.weight"),
    )


GPT_NEOX = Family(
    "gpt_neox",
    _config,
    Transformer,
    _weight_map,
    aliases=((r"^gpt_neox\.", ""),),
    # masks and frequencies, in old files
    ignored=r"(.*\.)?attention\.(bias|masked_bias|rotary_emb\.inv_freq)",
    without_effect=frozenset({"is_decoder", "max_position_embeddings"}),
)
