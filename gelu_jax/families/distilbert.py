"""DistilBERT (Sanh et al. 2019): BERT without token types, its fields and tensors renamed."""

from collections.abc import Collection
from dataclasses import replace

from gelu_jax.families.bert import BERT, encoder_config, encoder_map
from gelu_jax.families.common import has_tensor
from gelu_jax.families.hf_config import HFConfig
from gelu_jax.families.weight_map import Entry, WeightMap, attention, feed_forward, linear, norm
from gelu_jax.nn.encoder import EncoderConfig

_BERT_NAMES = {
    "hidden_size": "dim",
    "intermediate_size": "hidden_dim",
    "num_attention_heads": "n_heads",
    "num_hidden_layers": "n_layers",
    "hidden_act": "activation",
}


def _config(hf: HFConfig, tensors: Collection[str]) -> EncoderConfig:
    """A classifier with a layer before it is of texts, one without of tokens."""
    for name, theirs in _BERT_NAMES.items():
        hf.require(name, hf.given(theirs)) if name in hf.values else None
    named = {name: hf.given(theirs) for name, theirs in _BERT_NAMES.items()}
    fields = {name: value for name, value in named.items() if value is not None}
    hf = hf.with_values(layer_norm_eps=1e-12, type_vocab_size=1, **fields)
    of_texts = has_tensor(tensors, "pre_classifier.weight")
    classes = hf.num_labels() if has_tensor(tensors, "classifier.weight") else None
    has_masked_head = has_tensor(tensors, "vocab_projector.bias")
    base = encoder_config(
        hf.with_defaults(max_position_embeddings=512),
        tensors,
        pooler=of_texts,
        pooler_activation="relu",
        masked_head=hf.activation("hidden_act", "gelu") if has_masked_head else None,
        num_classes=classes if of_texts else None,
        num_token_classes=None if of_texts else classes,
    )
    return replace(base, transformer=replace(base.transformer, token_types=None))


_LAYER = (
    *attention("attention", "attention", "q_lin", "k_lin", "v_lin", "out_lin"),
    *norm("attention_norm", "sa_layer_norm"),
    *feed_forward("feed_forward", ["ffn.lin1"], "ffn.lin2"),
    *norm("feed_forward_norm", "output_layer_norm"),
)


def _weight_map(_: EncoderConfig) -> WeightMap:
    return (
        *encoder_map("distilbert", _LAYER, "transformer.layer"),
        *linear("pooler.{}", "pre_classifier"),
        *linear("classifier.{}", "classifier"),
        *linear("masked_head.dense.{}", "vocab_transform"),
        *norm("masked_head.norm", "vocab_layer_norm"),
        Entry("masked_head.bias", "vocab_projector.bias"),
        Entry("transformer.embedding", "vocab_projector.weight"),
    )


DISTILBERT = replace(
    BERT,
    model_type="distilbert",
    config=_config,
    weight_map=_weight_map,
    aliases=((r"^distilbert\.", ""),),
    # how the table of positions is drawn at first
    without_effect=frozenset({"sinusoidal_pos_embds"}),
)
