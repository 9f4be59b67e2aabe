"""Gemma, 2 and 3 (Gemma Team 2024, 2025): LLaMA with geglu_tanh, scaled embeddings, norms as 1 + w.

Gemma 2 norms before and after each part, bounds scores and logits, and has a window in every other
layer; Gemma 3 has QK-norms in place of the bounds, and a window in five layers of six.
"""

from collections.abc import Collection
from dataclasses import replace

from gelu_jax.families.common import (
    gated,
    rotary_of_kinds,
    sliding_window,
    with_attention,
    with_layer_types,
)
from gelu_jax.families.hf_config import HFConfig
from gelu_jax.families.llama import LLAMA
from gelu_jax.nn.attention import QKNormConfig
from gelu_jax.nn.position import RotaryConfig
from gelu_jax.nn.stack import LayerKind
from gelu_jax.nn.transformer import TransformerConfig


def _base(hf: HFConfig, tensors: Collection[str], act: str) -> TransformerConfig:
    base = LLAMA.config(hf.with_defaults(tie_word_embeddings=True, hidden_act=act), tensors)
    block = replace(
        base.block,
        norm=replace(base.block.norm, zero_centered=True),
        feed_forward=replace(base.block.feed_forward, variant=gated(act)),
    )
    return replace(base, block=block, embedding_scale=block.d_model**0.5)


def _gemma(hf: HFConfig, tensors: Collection[str]) -> TransformerConfig:
    if hf.given("use_bidirectional_attention") is not None:
        hf.require("use_bidirectional_attention", False)
    hf = hf.with_defaults(num_key_value_heads=16, head_dim=256)
    # The first releases say gelu and mean the tanh form, with which they were trained.
    act = hf.activation("hidden_act", "gelu_tanh")
    act = "gelu_tanh" if act == "gelu" else act
    if hf.given("hidden_activation") is not None and hf.activation("hidden_activation") != act:
        hf.require("hidden_activation", hf.given("hidden_act"))  # which transformers uses
    return _base(hf, tensors, act)


def _gemma2(hf: HFConfig, tensors: Collection[str]) -> TransformerConfig:
    if hf.given("use_bidirectional_attention") is not None:
        hf.require("use_bidirectional_attention", False)
    hf = hf.with_defaults(attn_logit_softcapping=50.0, final_logit_softcapping=30.0)
    base = _sandwich(hf, tensors)
    rotary = base.block.attention.rotary
    return _with_windows(base, hf, sliding_window(hf, base, 4096), 2, rotary, rotary)


def _gemma3(hf: HFConfig, tensors: Collection[str]) -> TransformerConfig:
    hf.require("attn_logit_softcapping", None)  # some of transformers' attentions pass over it
    full, sliding = _rotations(hf)
    base = _sandwich(hf.with_values(rope_parameters=None, rope_scaling=None), tensors)
    norms = QKNormConfig(epsilon=base.block.norm.epsilon, zero_centered=True)
    both_ways = bool(hf.given("use_bidirectional_attention"))
    base = with_attention(base, qk_norm=norms, causal=base.block.attention.causal and not both_ways)
    window = sliding_window(hf, base, 4096)
    if both_ways and window is not None:
        window = hf.integer("sliding_window", 4096) // 2 + 1  # on either side
    interval = hf.with_defaults(sliding_window_pattern=6).integer("sliding_window_pattern")
    return _with_windows(base, hf, window, interval, full, sliding)


def _sandwich(hf: HFConfig, tensors: Collection[str]) -> TransformerConfig:
    hf = hf.with_defaults(num_key_value_heads=4, head_dim=256, query_pre_attn_scalar=256)
    base = _base(hf, tensors, hf.activation("hidden_activation", "gelu_tanh"))
    base = replace(base, block=replace(base.block, style="sandwich"))
    scale = hf.number("query_pre_attn_scalar") ** -0.5
    scores, logits = (_cap(hf, f"{name}_logit_softcapping") for name in ("attn", "final"))
    return replace(with_attention(base, scale=scale, soft_cap=scores), logit_soft_cap=logits)


def _cap(hf: HFConfig, name: str) -> float | None:
    return None if hf.given(name) is None else hf.number(name)


def _with_windows(
    config: TransformerConfig,
    hf: HFConfig,
    window: int | None,
    interval: int,
    full: RotaryConfig | None,
    sliding: RotaryConfig | None,
) -> TransformerConfig:
    """A window in all layers but each last one of an interval."""
    kinds = {
        "full_attention": LayerKind(None, full),
        "sliding_attention": LayerKind(window, sliding),
    }
    layers = range(1, config.num_layers + 1)
    default = ["sliding_attention" if i % interval else "full_attention" for i in layers]
    return with_layer_types(config, hf, kinds, default)


def _rotations(hf: HFConfig) -> tuple[RotaryConfig, RotaryConfig]:
    """Those of full and of sliding layers; files of old stretch the former alone."""
    old = hf.section("rope_scaling").values if hf.given("rope_scaling") else {}
    return rotary_of_kinds(hf, (1e6, 1e4), ("rope_theta", "rope_local_base_freq"), old)


GEMMA = replace(LLAMA, model_type="gemma", config=_gemma)
GEMMA2 = replace(LLAMA, model_type="gemma2", config=_gemma2)
GEMMA3 = replace(LLAMA, model_type="gemma3_text", config=_gemma3)
