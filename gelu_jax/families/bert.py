"""BERT (Devlin et al. 2019), and the sentence encoders that are made of it."""

from collections.abc import Collection

from gelu_jax.families.common import heads, holds
from gelu_jax.families.family import Family
from gelu_jax.families.hf_config import HFConfig
from gelu_jax.families.weight_map import Entry, within
from gelu_jax.nn.attention import AttentionConfig
from gelu_jax.nn.block import BlockConfig
from gelu_jax.nn.encoder import Encoder, EncoderConfig
from gelu_jax.nn.feed_forward import FeedForwardConfig
from gelu_jax.nn.norm import NormConfig
from gelu_jax.nn.transformer import TransformerConfig


def config(s: HFConfig, tensors: Collection[str]) -> EncoderConfig:
    """BERT's config.json as a config of ours; which heads there are, the tensors tell."""
    s.only("is_decoder", False)
    s.only("position_embedding_type", "absolute")
    s.only("tie_word_embeddings", True)
    activation = s.activation("hidden_act", "gelu")
    return EncoderConfig(
        transformer=_transformer(s, activation),
        pooler=holds(tensors, "pooler.dense.weight"),
        masked_head=activation if holds(tensors, "cls.predictions.bias") else None,
        next_sentence_head=holds(tensors, "cls.seq_relationship.weight"),
    )


def _transformer(s: HFConfig, activation: str) -> TransformerConfig:
    d = s.integer("hidden_size")
    return TransformerConfig(
        vocab_size=s.integer("vocab_size"),
        num_layers=s.integer("num_hidden_layers"),
        block=BlockConfig(
            NormConfig(d, use_bias=True, epsilon=s.number("layer_norm_eps", 1e-12)),
            AttentionConfig(d, num_heads=heads(s, d), causal=False, use_bias=True),
            FeedForwardConfig(
                d, d_ff=s.integer("intermediate_size"), variant=activation, use_bias=True
            ),
            style="post_norm",
        ),
        max_positions=s.integer("max_position_embeddings"),
        token_types=s.integer("type_vocab_size"),
        embedding_norm=True,
    )


LAYER = (
    Entry("attention.w_query", "attention.self.query.weight", "(h k) d -> d h k"),
    Entry("attention.b_query", "attention.self.query.bias", "(h k) -> h k"),
    Entry("attention.w_key", "attention.self.key.weight", "(h k) d -> d h k"),
    Entry("attention.b_key", "attention.self.key.bias", "(h k) -> h k"),
    Entry("attention.w_value", "attention.self.value.weight", "(h k) d -> d h k"),
    Entry("attention.b_value", "attention.self.value.bias", "(h k) -> h k"),
    Entry("attention.w_out", "attention.output.dense.weight", "d (h k) -> h k d"),
    Entry("attention.b_out", "attention.output.dense.bias"),
    Entry("attention_norm.scale", "attention.output.LayerNorm.weight"),
    Entry("attention_norm.bias", "attention.output.LayerNorm.bias"),
    Entry("feed_forward.w_in.0", "intermediate.dense.weight", "f d -> d f"),
    Entry("feed_forward.b_in.0", "intermediate.dense.bias"),
    Entry("feed_forward.w_out", "output.dense.weight", "d f -> f d"),
    Entry("feed_forward.b_out", "output.dense.bias"),
    Entry("feed_forward_norm.scale", "output.LayerNorm.weight"),
    Entry("feed_forward_norm.bias", "output.LayerNorm.bias"),
)

ROWS = (
    Entry("transformer.embedding", "bert.embeddings.word_embeddings.weight"),
    Entry("transformer.positions", "bert.embeddings.position_embeddings.weight"),
    Entry("transformer.token_types", "bert.embeddings.token_type_embeddings.weight"),
    Entry("transformer.embedding_norm.scale", "bert.embeddings.LayerNorm.weight"),
    Entry("transformer.embedding_norm.bias", "bert.embeddings.LayerNorm.bias"),
    *within(LAYER, "transformer.layers.", "bert.encoder.layer.{}."),
    Entry("pooler.w", "bert.pooler.dense.weight", "e d -> d e"),
    Entry("pooler.b", "bert.pooler.dense.bias"),
    Entry("masked_head.dense.w", "cls.predictions.transform.dense.weight", "e d -> d e"),
    Entry("masked_head.dense.b", "cls.predictions.transform.dense.bias"),
    Entry("masked_head.norm.scale", "cls.predictions.transform.LayerNorm.weight"),
    Entry("masked_head.norm.bias", "cls.predictions.transform.LayerNorm.bias"),
    Entry("masked_head.bias", "cls.predictions.bias"),
    Entry("next_sentence_head.w", "cls.seq_relationship.weight", "e d -> d e"),
    Entry("next_sentence_head.b", "cls.seq_relationship.bias"),
)

BERT = Family(
    "bert",
    config,
    Encoder,
    lambda _: ROWS,
    aliases=(
        ("^bert.", ""),
        ("LayerNorm.weight", "LayerNorm.gamma"),
        ("LayerNorm.bias", "LayerNorm.beta"),
    ),
    ignored=r"(.*\.)?embeddings\.position_ids",
    tied=lambda _: {
        "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    },
)
