"""mT5 (Xue et al. 2021): T5 version 1.1 with a vocabulary of many languages."""

from collections.abc import Collection
from dataclasses import replace

from gelu_jax.families.hf_config import HFConfig
from gelu_jax.families.t5 import T5
from gelu_jax.nn.encoder_decoder import EncoderDecoderConfig


def _config(hf: HFConfig, tensors: Collection[str]) -> EncoderDecoderConfig:
    hf = hf.with_defaults(feed_forward_proj="gated-gelu")
    return T5.config(hf.with_values(scale_decoder_outputs=False), tensors)


MT5 = replace(T5, model_type="mt5", config=_config)
