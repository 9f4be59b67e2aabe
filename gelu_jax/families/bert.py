"""BERT (Devlin et al. 2019), and the sentence encoders that are made of it."""

from collections.abc import Collection
from dataclasses import replace

from gelu_jax.families.common import bert_block, has_tensor
from gelu_jax.families.family import Family
from gelu_jax.families.hf_config import HFConfig
from gelu_jax.families.weight_map import (
    Entry,
    WeightMap,
    attention,
    feed_forward,
    linear,
    norm,
    prefixed,
)
from gelu_jax.nn.encoder import Encoder, EncoderConfig
from gelu_jax.nn.transformer import TransformerConfig


def _config(hf: HFConfig, tensors: Collection[str]) -> EncoderConfig:
    """Which heads there are, the tensors tell."""
    hf.require("is_decoder", False)
    hf.require("position_embedding_type", "absolute")
    hf.require("tie_word_embeddings", True)
    block = bert_block(hf, epsilon=1e-12, activation="gelu", causal=False)
    has_masked_head = has_tensor(tensors, "cls.predictions.bias")
    return EncoderConfig(
        transformer=TransformerConfig(
            vocab_size=hf.integer("vocab_size"),
            num_layers=hf.integer("num_hidden_layers"),
            block=replace(block, style="post_norm"),
            max_positions=hf.integer("max_position_embeddings"),
            token_types=hf.integer("type_vocab_size"),
            embedding_norm=True,
        ),
        pooler=has_tensor(tensors, "pooler.dense.weight"),
        masked_head=hf.activation("hidden_act", "gelu") if has_masked_head else None,
        next_sentence_head=has_tensor(tensors, "cls.seq_relationship.weight"),
    )


_LAYER = (
    *attention("attention", "attention", "self.query", "self.key", "self.value", "output.dense"),
    *norm("attention_norm", "attention.output.LayerNorm"),
    *feed_forward("feed_forward", ["intermediate.dense"], "output.dense"),
    *norm("feed_forward_norm", "output.LayerNorm"),
)


def _weight_map(_: EncoderConfig) -> WeightMap:
    return (
        Entry("transformer.embedding", "bert.embeddings.word_embeddings.weight"),
        Entry("transformer.positions", "bert.embeddings.position_embeddings.weight"),
        Entry("transformer.token_types", "bert.embeddings.token_type_embeddings.weight"),
        *norm("transformer.embedding_norm", "bert.embeddings.LayerNorm"),
        *prefixed(_LAYER, "transformer.layers.", "bert.encoder.layer.{}."),
        *linear("pooler.{}", "bert.pooler.dense"),
        *linear("masked_head.dense.{}", "cls.predictions.transform.dense"),
        *norm("masked_head.norm", "cls.predictions.transform.LayerNorm"),
        Entry("masked_head.bias", "cls.predictions.bias"),
        *linear("next_sentence_head.{}", "cls.seq_relationship"),
        Entry("transformer.embedding", "cls.predictions.decoder.weight"),
        Entry("masked_head.bias", "cls.predictions.decoder.bias"),
    )


BERT = Family(
    "bert",
    _config,
    Encoder,
    _weight_map,
    aliases=(
        (r"^bert\.", ""),
        (r"LayerNorm\.weight", "LayerNorm.gamma"),
        (r"LayerNorm\.bias", "LayerNorm.beta"),
    ),
    ignored=r"(.*\.)?embeddings\.position_ids",
)
