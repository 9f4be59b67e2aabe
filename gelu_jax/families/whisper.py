"""Whisper (Radford et al. 2022): spectrograms in, text out.

Its input is log-mel spectrograms (b, bands, frames), as transformers' feature extractor makes them.
Generation is plain: what a generation_config.json adds (suppressed and forced tokens, timestamps,
long recordings in pieces) is not done.
"""

from collections.abc import Collection

from gelu_jax.families.common import whole_heads
from gelu_jax.families.family import Family
from gelu_jax.families.hf_config import HFConfig
from gelu_jax.families.weight_map import (
    Entry,
    WeightMap,
    attention,
    feed_forward,
    norm,
    prefixed,
)
from gelu_jax.nn.attention import AttentionConfig
from gelu_jax.nn.block import BlockConfig
from gelu_jax.nn.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from gelu_jax.nn.feed_forward import FeedForwardConfig
from gelu_jax.nn.norm import NormConfig
from gelu_jax.nn.speech import SpeechStemConfig


def _config(hf: HFConfig, tensors: Collection[str]) -> EncoderDecoderConfig:
    hf.require("is_encoder_decoder", True)
    stem = SpeechStemConfig(
        num_mels=hf.integer("num_mel_bins"),
        num_positions=hf.integer("max_source_positions"),
        d_model=hf.integer("d_model"),
    )
    return EncoderDecoderConfig(
        vocab_size=hf.integer("vocab_size"),
        num_encoder_layers=hf.integer("encoder_layers"),
        num_decoder_layers=hf.integer("decoder_layers"),
        block=_block(hf, "encoder"),
        decoder=_block(hf, "decoder"),
        relative=None,
        max_positions=hf.integer("max_target_positions"),
        stem=stem,
        tie_embeddings=hf.flag("tie_word_embeddings", True),
    )


def _block(hf: HFConfig, part: str) -> BlockConfig:
    """The block of the encoder or the decoder; its keys alone have no bias."""
    d = hf.integer("d_model")
    heads = whole_heads(hf, d, f"{part}_attention_heads")
    return BlockConfig(
        NormConfig(d, use_bias=True, epsilon=1e-5),
        AttentionConfig(d, num_heads=heads, causal=False, use_bias=True, key_bias=False),
        FeedForwardConfig(
            d,
            d_ff=hf.integer(f"{part}_ffn_dim"),
            variant=hf.activation("activation_function", "gelu"),
            use_bias=True,
        ),
    )


_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "out_proj")
_LAYER = (
    *attention("attention", "self_attn", *_PROJECTIONS),
    *norm("attention_norm", "self_attn_layer_norm"),
    *attention("cross_attention", "encoder_attn", *_PROJECTIONS),
    *norm("cross_attention_norm", "encoder_attn_layer_norm"),
    *feed_forward("feed_forward", ["fc1"], "fc2"),
    *norm("feed_forward_norm", "final_layer_norm"),
)
_STACK = (*prefixed(_LAYER, "layers.", "layers.{}."), *norm("final_norm", "layer_norm"))


def _weight_map(_: EncoderDecoderConfig) -> WeightMap:
    encoder, decoder = "model.encoder", "model.decoder"
    return (
        Entry("stem.w_first", f"{encoder}.conv1.weight", "d c n -> n c d"),
        Entry("stem.b_first", f"{encoder}.conv1.bias"),
        Entry("stem.w_second", f"{encoder}.conv2.weight", "d c n -> n c d"),
        Entry("stem.b_second", f"{encoder}.conv2.bias"),
        Entry("stem.positions", f"{encoder}.embed_positions.weight"),
        *prefixed(_STACK, "encoder.", f"{encoder}."),
        Entry("embedding", f"{decoder}.embed_tokens.weight"),
        Entry("positions", f"{decoder}.embed_positions.weight"),
        *prefixed(_STACK, "decoder.", f"{decoder}."),
        Entry("head", "proj_out.weight"),
        Entry("embedding", "proj_out.weight"),
    )


WHISPER = Family(
    "whisper",
    _config,
    EncoderDecoder,
    _weight_map,
    aliases=((r"^model\.", ""),),
    without_effect=frozenset(
        {
            "scale_embedding",  # transformers computes the scale and does not apply it
            # of generation
            *("suppress_tokens", "begin_suppress_tokens", "median_filter_width"),
            # of a classifier, which is not supported
            *("use_weighted_layer_sum", "classifier_proj_size"),
            # of training alone
            *("activation_dropout", "encoder_layerdrop", "decoder_layerdrop", "init_std"),
            *("apply_spec_augment", "mask_time_prob", "mask_time_length", "mask_time_min_masks"),
            *("mask_feature_prob", "mask_feature_length", "mask_feature_min_masks"),
        }
    ),
)
