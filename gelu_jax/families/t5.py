"""T5 (Raffel et al. 2020) and its version 1.1, which is gated and has a head of its own."""

from collections.abc import Collection

from gelu_jax.families.common import gated
from gelu_jax.families.family import Family
from gelu_jax.families.hf_config import HFConfig
from gelu_jax.families.weight_map import Entry, WeightMap, attention, feed_forward, norm, prefixed
from gelu_jax.nn.attention import AttentionConfig
from gelu_jax.nn.block import BlockConfig
from gelu_jax.nn.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from gelu_jax.nn.feed_forward import FeedForwardConfig
from gelu_jax.nn.norm import NormConfig
from gelu_jax.nn.position import RelativeConfig
from gelu_jax.nn.variants import Variant


def _config(hf: HFConfig, tensors: Collection[str]) -> EncoderDecoderConfig:
    """A head among the tensors is used, whatever the config says; without one the config decides.

    Files of version 1.1 hold a head of their own, though transformers 5 writes
    ``tie_word_embeddings: true`` beside it.
    """
    d, num_layers = hf.integer("d_model"), hf.integer("num_layers")
    tied = hf.flag("tie_word_embeddings", True)
    has_decoder = not tensors or any(name.startswith(_DECODER) for name in tensors)
    if has_decoder:
        hf.require("is_encoder_decoder", True)
    own_head = "lm_head.weight" in tensors and not _EMBEDDINGS.isdisjoint(tensors)
    return EncoderDecoderConfig(
        vocab_size=hf.integer("vocab_size"),
        num_encoder_layers=num_layers,
        num_decoder_layers=hf.integer("num_decoder_layers", None) or num_layers,
        block=BlockConfig(
            NormConfig(d, kind="rms", epsilon=hf.number("layer_norm_epsilon", 1e-6)),
            AttentionConfig(
                d,
                num_heads=hf.integer("num_heads"),
                head_dim=hf.integer("d_kv"),
                causal=False,
                scale=1.0,
            ),
            FeedForwardConfig(d, d_ff=hf.integer("d_ff"), variant=_variant(hf)),
        ),
        relative=RelativeConfig(
            hf.integer("relative_attention_num_buckets", 32),
            hf.integer("relative_attention_max_distance", 128),
        ),
        has_decoder=has_decoder,
        tie_embeddings=not own_head if tensors else tied,
        logit_scale=d**-0.5 if hf.flag("scale_decoder_outputs", tied) else 1.0,
    )


_EMBEDDINGS = {
    f"{part}.weight" for part in ("shared", "encoder.embed_tokens", "decoder.embed_tokens")
}


_DECODER = ("decoder.block.", "decoder.final_layer_norm.")


def _variant(hf: HFConfig) -> Variant:
    """What `feed_forward_proj` says, unless the two fields that are made from it say otherwise."""
    name = hf.string("feed_forward_proj", "relu")
    act = hf.activation("feed_forward_proj", "relu", prefix="gated-")
    if name == "gated-gelu":  # which means the tanh form, unlike the "gelu" of others
        act = "gelu_tanh"
    act = hf.activation("dense_act_fn", act)
    return gated(act) if hf.flag("is_gated_act", name.startswith("gated-")) else act


def _stack(name: str, sublayer: int, inputs: list[str]) -> WeightMap:
    """The encoder or the decoder; the feed-forward is that sublayer of each of its blocks."""
    dense = f"layer.{sublayer}.DenseReluDense"
    block = (
        *attention("attention", "layer.0.SelfAttention", "q", "k", "v", "o"),
        *norm("attention_norm", "layer.0.layer_norm"),
        *attention("cross_attention", "layer.1.EncDecAttention", "q", "k", "v", "o"),
        *norm("cross_attention_norm", "layer.1.layer_norm"),
        *feed_forward("feed_forward", [f"{dense}.{linear}" for linear in inputs], f"{dense}.wo"),
        *norm("feed_forward_norm", f"layer.{sublayer}.layer_norm"),
    )
    stack = (
        *prefixed(block, "layers.", "block.{}."),
        Entry("relative", "block.0.layer.0.SelfAttention.relative_attention_bias.weight"),
        *norm("final_norm", "final_layer_norm"),
    )
    return prefixed(stack, f"{name}.", f"{name}.")


def _weight_map(config: EncoderDecoderConfig) -> WeightMap:
    """The kernels of gated blocks have names of their own."""
    inputs = ["wi_0", "wi_1"] if config.block.feed_forward.num_branches == 2 else ["wi"]
    return (
        Entry("embedding", "shared.weight"),
        *_stack("encoder", 1, inputs),
        *_stack("decoder", 2, inputs),
        Entry("head", "lm_head.weight"),
        Entry("embedding", "encoder.embed_tokens.weight"),
        Entry("embedding", "decoder.embed_tokens.weight"),
        Entry("embedding", "lm_head.weight"),
    )


T5 = Family(
    "t5",
    _config,
    EncoderDecoder,
    _weight_map,
    without_effect=frozenset({"is_encoder_decoder"}),  # of an encoder alone
    float32=r".*\.feed_forward\.w_out",  # as in transformers
    # a table that the first releases hold and never used
    ignored=r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight",
)
