"""Gemma (Gemma Team 2024): LLaMA with geglu_tanh, scaled embeddings, and norms stored as 1 + w."""

from collections.abc import Collection
from dataclasses import replace

from gelu_jax.families.common import gated
from gelu_jax.families.hf_config import HFConfig
from gelu_jax.families.llama import LLAMA
from gelu_jax.nn.transformer import TransformerConfig


def _config(hf: HFConfig, tensors: Collection[str]) -> TransformerConfig:
    if hf.values.get("use_bidirectional_attention") is not None:
        hf.require("use_bidirectional_attention", False)
    base = LLAMA.config(hf.with_defaults(tie_word_embeddings=True, hidden_act="gelu"), tensors)
    field = "hidden_act" if hf.values.get("hidden_activation") is None else "hidden_activation"
    act = hf.activation(field, "gelu_tanh")
    # The first releases say gelu and mean the tanh form, with which they were trained.
    act = "gelu_tanh" if act == "gelu" else act
    block = replace(
        base.block,
        norm=replace(base.block.norm, zero_centered=True),
        feed_forward=replace(base.block.feed_forward, variant=gated(act)),
    )
    return replace(base, block=block, embedding_scale=block.d_model**0.5)


GEMMA = replace(LLAMA, model_type="gemma", config=_config)
