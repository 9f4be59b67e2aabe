"""ELECTRA (Clark et al. 2020): BERT that tells replaced tokens, with narrower embeddings."""

from collections.abc import Collection
from dataclasses import replace

from gelu_jax.families.bert import BERT, LAYER, OLD_NAMES, encoder_config, encoder_map
from gelu_jax.families.common import has_tensor
from gelu_jax.families.hf_config import HFConfig
from gelu_jax.families.weight_map import Entry, WeightMap, linear, norm
from gelu_jax.nn.encoder import EncoderConfig


def _config(hf: HFConfig, tensors: Collection[str]) -> EncoderConfig:
    """Its classifiers of texts and its generator have gelu, whatever the fields say."""
    of_texts = has_tensor(tensors, "classifier.out_proj.weight")
    of_tokens = has_tensor(tensors, "classifier.weight")
    tells = has_tensor(tensors, "discriminator_predictions.dense.weight")
    base = encoder_config(
        hf,
        tensors,
        pooler=of_texts,
        pooler_activation="gelu",
        masked_head="gelu" if has_tensor(tensors, "generator_predictions.dense.weight") else None,
        replaced_head=hf.activation("hidden_act", "gelu") if tells else None,
        num_classes=hf.num_labels() if of_texts else None,
        num_token_classes=hf.num_labels() if of_tokens else None,
    )
    width = hf.integer("embedding_size", 128)
    size = None if width == base.transformer.block.d_model else width
    return replace(base, transformer=replace(base.transformer, embedding_size=size))


def _weight_map(_: EncoderConfig) -> WeightMap:
    return (
        *encoder_map("electra", LAYER),
        *linear("transformer.embedding_projection.{}", "electra.embeddings_project"),
        *linear("pooler.{}", "classifier.dense"),
        *linear("classifier.{}", "classifier.out_proj"),
        *linear("masked_head.dense.{}", "generator_predictions.dense"),
        *norm("masked_head.norm", "generator_predictions.LayerNorm"),
        Entry("masked_head.bias", "generator_lm_head.bias"),
        *linear("replaced_head.dense.{}", "discriminator_predictions.dense"),
        *linear("replaced_head.out.{}", "discriminator_predictions.dense_prediction"),
        Entry("transformer.embedding", "generator_lm_head.weight"),
    )


ELECTRA = replace(
    BERT,
    model_type="electra",
    config=_config,
    weight_map=_weight_map,
    aliases=((r"^electra\.", ""), *OLD_NAMES),
    # of heads for multiple choice, which are not supported
    without_effect=frozenset(
        {"summary_activation", "summary_last_dropout", "summary_type", "summary_use_proj"}
    ),
)
