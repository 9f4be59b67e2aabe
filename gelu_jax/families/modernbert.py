"""ModernBERT (Warner et al. 2024): pre-norm and geglu, full attention in every third layer."""

from collections.abc import Collection
from dataclasses import replace

from gelu_jax.families.common import (
    gated,
    has_tensor,
    layer_kinds,
    rotary_of_kinds,
    whole_heads,
    with_pattern,
)
from gelu_jax.families.family import Family
from gelu_jax.families.hf_config import HFConfig
from gelu_jax.families.weight_map import Entry, WeightMap, fused_attention, linear, norm, prefixed
from gelu_jax.nn.attention import AttentionConfig
from gelu_jax.nn.block import BlockConfig
from gelu_jax.nn.encoder import Encoder, EncoderConfig
from gelu_jax.nn.feed_forward import FeedForwardConfig
from gelu_jax.nn.norm import NormConfig
from gelu_jax.nn.stack import LayerKind
from gelu_jax.nn.transformer import TransformerConfig


def _config(hf: HFConfig, tensors: Collection[str]) -> EncoderConfig:
    """The tensors tell which heads there are; the class that is named, what a classifier is of."""
    kind = str(hf.given("architectures"))
    classes = hf.num_labels() if has_tensor(tensors, "classifier.weight") else None
    masked = has_tensor(tensors, "decoder.bias")
    of_tokens, of_spans = "ForTokenClassification" in kind, "ForQuestionAnswering" in kind
    act = hf.activation("classifier_activation", "gelu")
    pooling = hf.one_of("classifier_pooling", ("cls", "mean"), "cls")
    hf.require("decoder_bias", True)
    hf.require("tie_word_embeddings", True)
    return EncoderConfig(
        transformer=_transformer(hf),
        pooler=classes is not None,
        pooler_activation=act,
        pooler_norm=classes is not None,
        pooling="cls" if pooling == "cls" else "mean",
        head_bias=hf.flag("classifier_bias", False),
        masked_head=act if masked else None,
        num_classes=None if of_tokens or of_spans else classes,
        num_token_classes=classes if of_tokens else None,
        span_head=of_spans,
        token_pooler=of_tokens or of_spans,
    )


def _transformer(hf: HFConfig) -> TransformerConfig:
    d = hf.integer("hidden_size")
    norm = NormConfig(d, use_bias=hf.flag("norm_bias", False), epsilon=hf.number("norm_eps", 1e-5))
    config = TransformerConfig(
        vocab_size=hf.integer("vocab_size"),
        num_layers=hf.integer("num_hidden_layers"),
        block=BlockConfig(
            norm,
            AttentionConfig(
                d,
                num_heads=whole_heads(hf, d),
                causal=False,
                use_bias=hf.flag("attention_bias", False),
            ),
            FeedForwardConfig(
                d,
                d_ff=hf.integer("intermediate_size"),
                variant=gated(hf.activation("hidden_activation", "gelu")),
                use_bias=hf.flag("mlp_bias", False),
            ),
        ),
        embedding_norm=True,
    )
    return _with_windows(config, hf)


def _with_windows(config: TransformerConfig, hf: HFConfig) -> TransformerConfig:
    """The first layer sees the embeddings, which were normed just before."""
    hf.require("rope_scaling", None)
    full, sliding = rotary_of_kinds(
        hf, (160_000.0, 10_000.0), ("global_rope_theta", "local_rope_theta")
    )
    window = hf.integer("local_attention", 128) // 2 + 1  # on either side, the token itself counted
    kinds = {
        "full_attention": LayerKind(None, full),
        "sliding_attention": LayerKind(window, sliding),
    }
    every = hf.with_defaults(global_attn_every_n_layers=3).integer("global_attn_every_n_layers")
    default = [
        "sliding_attention" if i % every else "full_attention" for i in range(config.num_layers)
    ]
    first, *others = layer_kinds(config, hf, kinds, default)
    return with_pattern(config, [replace(first, normed=False), *others])


_NORM = Entry("attention_norm.scale", "attn_norm.weight", first=1)

_LAYER = (
    _NORM,
    replace(_NORM, path="attention_norm.bias", name="attn_norm.bias"),
    *fused_attention("attention", "attn", "Wqkv", "Wo"),
    *norm("feed_forward_norm", "mlp_norm"),
    Entry("feed_forward.w_in_0", "mlp.Wi.weight", "f d -> d f"),
    Entry("feed_forward.w_in_1", "mlp.Wi.weight", "f d -> d f"),
    Entry("feed_forward.b_in_0", "mlp.Wi.bias"),
    Entry("feed_forward.b_in_1", "mlp.Wi.bias"),
    *linear("feed_forward.{}_out", "mlp.Wo"),
)


def _weight_map(_: EncoderConfig) -> WeightMap:
    return (
        Entry("transformer.embedding", "model.embeddings.tok_embeddings.weight"),
        *norm("transformer.embedding_norm", "model.embeddings.norm"),
        *prefixed(_LAYER, "transformer.layers.", "model.layers.{}."),
        *norm("transformer.final_norm", "model.final_norm"),
        *linear("pooler.{}", "head.dense"),
        *norm("pooler_norm", "head.norm"),
        *(e for part in ("", "token_") for e in linear(part + "classifier.{}", "classifier")),
        *linear("span_head.{}", "classifier"),
        *linear("masked_head.dense.{}", "head.dense"),
        *norm("masked_head.norm", "head.norm"),
        Entry("masked_head.bias", "decoder.bias"),
        Entry("transformer.embedding", "decoder.weight"),
    )


MODERNBERT = Family(
    "modernbert",
    _config,
    Encoder,
    _weight_map,
    aliases=((r"^model\.", ""),),
    without_effect=frozenset(
        {
            *("max_position_embeddings", "deterministic_flash_attn", "mlp_dropout"),
            *("sparse_prediction", "sparse_pred_ignore_index"),  # of training alone
        }
    ),
)
