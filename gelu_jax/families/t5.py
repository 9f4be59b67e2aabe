"""T5 (Raffel et al. 2020) and its version 1.1, which is gated and has a head of its own."""

from collections.abc import Collection

from gelu_jax.activations import activation
from gelu_jax.errors import ConfigError, Problem
from gelu_jax.families.common import gated
from gelu_jax.families.family import Family
from gelu_jax.families.hf_config import HFConfig
from gelu_jax.families.weight_map import Entry, within
from gelu_jax.nn.attention import AttentionConfig
from gelu_jax.nn.block import BlockConfig
from gelu_jax.nn.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from gelu_jax.nn.feed_forward import FeedForwardConfig
from gelu_jax.nn.norm import NormConfig
from gelu_jax.nn.position import RelativeConfig
from gelu_jax.nn.variants import Variant


def config(s: HFConfig, tensors: Collection[str]) -> EncoderDecoderConfig:
    """T5's config.json as a config of ours.

    Files of version 1.1 hold a head of their own, though transformers 5 writes
    ``tie_word_embeddings: true`` beside it: where there is one it is used, and where there is none
    the config decides.
    """
    d, layers = s.integer("d_model"), s.integer("num_layers")
    scaled = s.flag("scale_decoder_outputs", s.flag("tie_word_embeddings", True))
    return EncoderDecoderConfig(
        vocab_size=s.integer("vocab_size"),
        num_encoder_layers=layers,
        num_decoder_layers=s.optional("num_decoder_layers") or layers,
        block=BlockConfig(
            NormConfig(d, kind="rms", epsilon=s.number("layer_norm_epsilon", 1e-6)),
            AttentionConfig(
                d,
                num_heads=s.integer("num_heads"),
                head_dim=s.integer("d_kv"),
                causal=False,
                scale=1.0,
            ),
            FeedForwardConfig(d, d_ff=s.integer("d_ff"), variant=_variant(s)),
        ),
        relative=RelativeConfig(
            s.integer("relative_attention_num_buckets", 32),
            s.integer("relative_attention_max_distance", 128),
        ),
        tie_embeddings="lm_head.weight" not in tensors and s.flag("tie_word_embeddings", True),
        logit_scale=d**-0.5 if scaled else 1.0,
    )


def _variant(s: HFConfig) -> Variant:
    name = s.text("feed_forward_proj", "relu")
    if name == "gated-gelu":  # which means the tanh form, unlike the "gelu" of others
        return gated("gelu_tanh")
    prefix, _, act = name.rpartition("-")
    if prefix not in ("", "gated"):
        reason = "unknown; nearest: gated-gelu, relu"
        raise ConfigError([Problem("feed_forward_proj", name, reason)])
    try:
        act = activation(act).__name__
    except ValueError as error:
        reason = str(error).partition(": ")[2]
        raise ConfigError([Problem("feed_forward_proj", name, reason)]) from None
    return gated(act) if prefix else act


def _attention(ours: str, theirs: str) -> tuple[Entry, ...]:
    rows = (
        Entry("w_query", "q.weight", "(h k) d -> d h k"),
        Entry("w_key", "k.weight", "(h k) d -> d h k"),
        Entry("w_value", "v.weight", "(h k) d -> d h k"),
        Entry("w_out", "o.weight", "d (h k) -> h k d"),
    )
    return within(rows, ours, theirs)


def _feed_forward(number: int, inputs: tuple[str, ...]) -> tuple[Entry, ...]:
    w_in = (Entry(f"w_in.{i}", f"{name}.weight", "f d -> d f") for i, name in enumerate(inputs))
    w_out = Entry("w_out", "wo.weight", "d f -> f d")
    return within((*w_in, w_out), "layers.feed_forward.", f"layer.{number}.DenseReluDense.")


def _tower(number: int, inputs: tuple[str, ...]) -> tuple[Entry, ...]:
    """A stack whose feed-forward is part `number` of each block."""
    layer = (
        *_attention("layers.attention.", "layer.0.SelfAttention."),
        Entry("layers.attention_norm.scale", "layer.0.layer_norm.weight"),
        *_attention("layers.cross_attention.", "layer.1.EncDecAttention."),
        Entry("layers.cross_attention_norm.scale", "layer.1.layer_norm.weight"),
        *_feed_forward(number, inputs),
        Entry("layers.feed_forward_norm.scale", f"layer.{number}.layer_norm.weight"),
    )
    return (
        *within(layer, theirs="block.{}."),
        Entry("relative", "block.0.layer.0.SelfAttention.relative_attention_bias.weight"),
        Entry("final_norm.scale", "final_layer_norm.weight"),
    )


def rows(config: EncoderDecoderConfig) -> tuple[Entry, ...]:
    """The table of names; the kernels of gated blocks have names of their own."""
    inputs = ("wi_0", "wi_1") if config.block.feed_forward.num_branches == 2 else ("wi",)
    return (
        Entry("embedding", "shared.weight"),
        *within(_tower(1, inputs), "encoder.", "encoder."),
        *within(_tower(2, inputs), "decoder.", "decoder."),
        Entry("head", "lm_head.weight"),
    )


T5 = Family(
    "t5",
    config,
    EncoderDecoder,
    rows,
    tied=lambda _: {
        "encoder.embed_tokens.weight": "shared.weight",
        "decoder.embed_tokens.weight": "shared.weight",
    },
)
