"""nomic-bert (Nussbaum et al. 2024): BERT with rotary positions, swiglu and no biases in layers."""

from collections.abc import Collection
from dataclasses import replace

from gelu_jax.families.bert import BERT
from gelu_jax.families.common import gated, rotary_config
from gelu_jax.families.hf_config import HFConfig
from gelu_jax.families.weight_map import (
    Entry,
    WeightMap,
    feed_forward,
    fused_attention,
    linear,
    norm,
    prefixed,
)
from gelu_jax.nn.encoder import EncoderConfig


def _config(hf: HFConfig, tensors: Collection[str]) -> EncoderConfig:
    hf = hf.with_defaults(hidden_act="silu")
    hf.require("head_dim", hf.integer("hidden_size") // hf.integer("num_attention_heads"))
    base = BERT.config(hf, tensors)
    block = base.transformer.block
    feed_forward = replace(
        block.feed_forward, variant=gated(hf.activation("hidden_act")), use_bias=False
    )
    attention = replace(block.attention, rotary=rotary_config(hf, 1000.0), use_bias=False)
    block = replace(block, attention=attention, feed_forward=feed_forward)
    return replace(base, transformer=replace(base.transformer, block=block, max_positions=None))


_LAYER = (
    *fused_attention("attention", "attn", "Wqkv", "out_proj"),
    *norm("attention_norm", "norm1"),
    *feed_forward("feed_forward", ["mlp.fc12", "mlp.fc11"], "mlp.fc2"),
    *norm("feed_forward_norm", "norm2"),
)


def _weight_map(_: EncoderConfig) -> WeightMap:
    name = "nomic_bert"
    return (
        Entry("transformer.embedding", f"{name}.embeddings.word_embeddings.weight"),
        Entry("transformer.token_types", f"{name}.embeddings.token_type_embeddings.weight"),
        *norm("transformer.embedding_norm", f"{name}.emb_ln"),
        *prefixed(_LAYER, "transformer.layers.", f"{name}.encoder.layers.{{}}."),
        *linear("pooler.{}", f"{name}.pooler.dense"),
        *linear("classifier.{}", "classifier"),
        *linear("token_classifier.{}", "classifier"),
        *linear("masked_head.dense.{}", "cls.predictions.transform.dense"),
        *norm("masked_head.norm", "cls.predictions.transform.layer_norm"),
        Entry("masked_head.bias", "cls.predictions.bias"),
        Entry("transformer.embedding", "cls.predictions.decoder.weight"),
        Entry("masked_head.bias", "cls.predictions.decoder.bias"),
    )


NOMIC_BERT = replace(
    BERT,
    model_type="nomic_bert",
    config=_config,
    weight_map=_weight_map,
    aliases=((r"^nomic_bert\.", ""),),
    without_effect=frozenset({"max_position_embeddings"}),
)
