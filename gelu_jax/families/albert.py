"""ALBERT (Lan et al. 2020): BERT whose layers are all one, with narrower embeddings."""

from collections.abc import Collection
from dataclasses import replace

from gelu_jax.families.bert import BERT, OLD_NAMES, encoder_config, encoder_map
from gelu_jax.families.common import has_tensor
from gelu_jax.families.hf_config import HFConfig
from gelu_jax.families.weight_map import Entry, WeightMap, attention, feed_forward, linear, norm
from gelu_jax.nn.encoder import EncoderConfig


def _config(hf: HFConfig, tensors: Collection[str]) -> EncoderConfig:
    """In place of BERT's next sentence it tells two segments in the wrong order."""
    hf.require("num_hidden_groups", 1)
    hf.require("inner_group_num", 1)
    hf = hf.with_defaults(hidden_act="gelu_new")
    pooler = has_tensor(tensors, "pooler.weight")
    order = has_tensor(tensors, "sop_classifier.classifier.weight")
    classes = hf.num_labels() if has_tensor(tensors, "classifier.weight") and not order else None
    has_masked_head = has_tensor(tensors, "predictions.bias")
    base = encoder_config(
        hf,
        tensors,
        pooler=pooler,
        masked_head=hf.activation("hidden_act") if has_masked_head else None,
        next_sentence_head=order,
        num_classes=classes if pooler else None,
        num_token_classes=None if pooler else classes,
    )
    width = hf.integer("embedding_size", 128)
    transformer = replace(base.transformer, embedding_size=width, shared_layers=True)
    return replace(base, transformer=transformer)


_LAYER = (
    *attention("attention", "attention", "query", "key", "value", "dense"),
    *norm("attention_norm", "attention.LayerNorm"),
    *feed_forward("feed_forward", ["ffn"], "ffn_output"),
    *norm("feed_forward_norm", "full_layer_layer_norm"),
)

_PROJECTION = "albert.encoder.embedding_hidden_mapping_in"


def _weight_map(_: EncoderConfig) -> WeightMap:
    return (
        *encoder_map("albert", _LAYER, "encoder.albert_layer_groups.0.albert_layers"),
        *linear("transformer.embedding_projection.{}", _PROJECTION),
        *linear("pooler.{}", "albert.pooler"),
        *linear("classifier.{}", "classifier"),
        *linear("masked_head.dense.{}", "predictions.dense"),
        *norm("masked_head.norm", "predictions.LayerNorm"),
        Entry("masked_head.bias", "predictions.bias"),
        *linear("next_sentence_head.{}", "sop_classifier.classifier"),
        Entry("transformer.embedding", "predictions.decoder.weight"),
        Entry("masked_head.bias", "predictions.decoder.bias"),
    )


ALBERT = replace(
    BERT,
    model_type="albert",
    config=_config,
    weight_map=_weight_map,
    aliases=((r"^albert\.", ""), *OLD_NAMES),
)
