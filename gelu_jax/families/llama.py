"""LLaMA (Touvron et al. 2023). Most later decoders are laid out like it."""

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
    """Whether there are logits, scores or hidden states alone, the tensors tell."""
    scored = "score.weight" in tensors
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
                causal=hf.flag("is_causal", True),
            ),
            FeedForwardConfig(
                d,
                d_ff=hf.integer("intermediate_size"),
                variant=gated(hf.activation("hidden_act", "silu")),
                use_bias=hf.flag("mlp_bias", False),
            ),
        ),
        tie_embeddings=hf.flag("tie_word_embeddings", False),
        has_head=not scored and "embed_tokens.weight" not in tensors,
        num_classes=hf.num_labels() if scored else None,
    )


ATTENTION = (
    *attention("attention", "self_attn", "q_proj", "k_proj", "v_proj", "o_proj"),
    *norm("attention.query_norm", "self_attn.q_norm"),
    *norm("attention.key_norm", "self_attn.k_norm"),
)
FEED_FORWARD = feed_forward("feed_forward", ["mlp.gate_proj", "mlp.up_proj"], "mlp.down_proj")

_NORMS = {
    "pre_norm": {
        "attention_norm": "input_layernorm",
        "feed_forward_norm": "post_attention_layernorm",
    },
    "branch_norm": {
        "attention_norm": "post_attention_layernorm",
        "feed_forward_norm": "post_feedforward_layernorm",
    },
    "sandwich": {
        "attention_norm": "input_layernorm",
        "attention_out_norm": "post_attention_layernorm",
        "feed_forward_norm": "pre_feedforward_layernorm",
        "feed_forward_out_norm": "post_feedforward_layernorm",
    },
}


def decoder_map(
    config: TransformerConfig, parts: WeightMap = (*ATTENTION, *FEED_FORWARD)
) -> WeightMap:
    """The entries of a decoder laid out like LLaMA.

    Args:
      config: of the decoder.
      parts: the entries of a layer, but for its norms.

    Returns:
      The entries.
    """
    norms = [entry for name in _NORMS[config.block.style].items() for entry in norm(*name)]
    return (
        Entry("embedding", "model.embed_tokens.weight"),
        *prefixed((*norms, *parts), "layers.", "model.layers.{}."),
        *norm("final_norm", "model.norm"),
        Entry("classifier.w", "score.weight", "e d -> d e"),
        Entry("head", "lm_head.weight"),
        Entry("embedding", "lm_head.weight"),
    )


LLAMA = Family(
    "llama",
    _config,
    Transformer,
    decoder_map,
    aliases=((r"^model\.", ""),),
    ignored=r".*\.rotary_emb\.inv_freq",  # the frequencies, in old files
    # The splits of its matrices in Meta's own training change nothing in float32.
    without_effect=frozenset({"max_position_embeddings", "pretraining_tp"}),
)
