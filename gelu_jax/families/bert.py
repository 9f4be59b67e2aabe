"""BERT (Devlin et al. 2019), and the encoders that are laid out like it: RoBERTa and XLM-R."""

from collections.abc import Collection
from dataclasses import replace
from typing import Any

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


def encoder_config(hf: HFConfig, tensors: Collection[str], **heads: Any) -> EncoderConfig:
    """The encoder that BERT's fields describe.

    Args:
      hf: the fields.
      tensors: the names of the tensors that are there.
      **heads: fields of the config that say which heads there are.

    Returns:
      The encoder.
    """
    hf.require("is_decoder", False)
    hf.require("position_embedding_type", "absolute")
    hf.require("tie_word_embeddings", True)
    hf.require("add_cross_attention", False)
    block = bert_block(hf, epsilon=1e-12, activation="gelu", causal=False)
    return EncoderConfig(
        transformer=TransformerConfig(
            vocab_size=hf.integer("vocab_size"),
            num_layers=hf.integer("num_hidden_layers"),
            block=replace(block, style="post_norm"),
            max_positions=hf.integer("max_position_embeddings"),
            token_types=hf.integer("type_vocab_size", 2),
            embedding_norm=True,
        ),
        span_head=has_tensor(tensors, "qa_outputs.weight"),
        **heads,
    )


def _config(hf: HFConfig, tensors: Collection[str]) -> EncoderConfig:
    """The tensors tell which heads there are; without a pooler they classify tokens."""
    has_masked_head = has_tensor(tensors, "cls.predictions.bias")
    pooler = has_tensor(tensors, "pooler.dense.weight")
    classes = hf.num_labels() if has_tensor(tensors, "classifier.weight") else None
    of_tokens = not pooler or "ForTokenClassification" in str(hf.given("architectures"))
    return encoder_config(
        hf,
        tensors,
        pooler=pooler,
        masked_head=hf.activation("hidden_act", "gelu") if has_masked_head else None,
        next_sentence_head=has_tensor(tensors, "cls.seq_relationship.weight"),
        num_classes=None if of_tokens else classes,
        num_token_classes=classes if of_tokens else None,
    )


LAYER = (
    *attention("attention", "attention", "self.query", "self.key", "self.value", "output.dense"),
    *norm("attention_norm", "attention.output.LayerNorm"),
    *feed_forward("feed_forward", ["intermediate.dense"], "output.dense"),
    *norm("feed_forward_norm", "output.LayerNorm"),
)


def encoder_map(name: str, layer: WeightMap, layers: str = "encoder.layer") -> WeightMap:
    """The entries of an encoder without its heads, and of the heads that have one name in all.

    Args:
      name: the encoder in transformers.
      layer: the entries of a layer.
      layers: the list of layers in it.

    Returns:
      The entries.
    """
    return (
        Entry("transformer.embedding", f"{name}.embeddings.word_embeddings.weight"),
        Entry("transformer.positions", f"{name}.embeddings.position_embeddings.weight"),
        Entry("transformer.token_types", f"{name}.embeddings.token_type_embeddings.weight"),
        *norm("transformer.embedding_norm", f"{name}.embeddings.LayerNorm"),
        *prefixed(layer, "transformer.layers.", f"{name}.{layers}.{{}}."),
        *linear("token_classifier.{}", "classifier"),
        *linear("span_head.{}", "qa_outputs"),
    )


def _weight_map(_: EncoderConfig) -> WeightMap:
    return (
        *encoder_map("bert", LAYER),
        *linear("pooler.{}", "bert.pooler.dense"),
        *linear("classifier.{}", "classifier"),
        *linear("masked_head.dense.{}", "cls.predictions.transform.dense"),
        *norm("masked_head.norm", "cls.predictions.transform.LayerNorm"),
        Entry("masked_head.bias", "cls.predictions.bias"),
        *linear("next_sentence_head.{}", "cls.seq_relationship"),
        Entry("transformer.embedding", "cls.predictions.decoder.weight"),
        Entry("masked_head.bias", "cls.predictions.decoder.bias"),
    )


OLD_NAMES = (
    (r"LayerNorm\.weight", "LayerNorm.gamma"),
    (r"LayerNorm\.bias", "LayerNorm.beta"),
)

BERT = Family(
    "bert",
    _config,
    Encoder,
    _weight_map,
    aliases=((r"^bert\.", ""), *OLD_NAMES),
    ignored=r"(.*\.)?embeddings\.position_ids",
)
