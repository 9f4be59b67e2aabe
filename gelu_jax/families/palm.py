"""PaLM (Chowdhery et al. 2022), in the layout of the public PyTorch code of it.

No weights of the paper's are public and transformers has no such model, so the config.json is our
own: ``model_type`` "palm" and the arguments of that code's constructor. Query, key, value and the
feed-forward's inputs are one matrix, the up projection before the gate.
"""

from collections.abc import Collection

from gelu_jax.families.family import Family
from gelu_jax.families.hf_config import HFConfig
from gelu_jax.families.weight_map import Entry, WeightMap, prefixed
from gelu_jax.nn.attention import AttentionConfig
from gelu_jax.nn.block import BlockConfig
from gelu_jax.nn.feed_forward import FeedForwardConfig
from gelu_jax.nn.norm import NormConfig
from gelu_jax.nn.position import RotaryConfig
from gelu_jax.nn.transformer import Transformer, TransformerConfig


def _config(hf: HFConfig, tensors: Collection[str]) -> TransformerConfig:
    d = hf.integer("dim")
    return TransformerConfig(
        vocab_size=hf.integer("num_tokens"),
        num_layers=hf.integer("depth"),
        block=BlockConfig(
            NormConfig(d, epsilon=1e-5),
            AttentionConfig(
                d,
                num_heads=hf.integer("heads", 8),
                num_kv_heads=1,
                head_dim=hf.integer("dim_head", 64),
                rotary=RotaryConfig(),
            ),
            FeedForwardConfig(d, d_ff=hf.integer("ff_mult", 4) * d, variant="swiglu"),
            style="parallel",
        ),
    )


_FUSED = "fused_attn_ff_proj.weight"

_LAYER = (
    Entry("attention_norm.scale", "norm.gamma"),
    Entry("attention.w_query", _FUSED, "(h k) d -> d h k"),
    Entry("attention.w_key", _FUSED, "(g k) d -> d g k"),
    Entry("attention.w_value", _FUSED, "(g k) d -> d g k"),
    Entry("feed_forward.w_in_1", _FUSED, "f d -> d f"),
    Entry("feed_forward.w_in_0", _FUSED, "f d -> d f"),
    Entry("attention.w_out", "attn_out.weight", "d (h k) -> h k d"),
    Entry("feed_forward.w_out", "ff_out.1.weight", "d f -> f d"),
)


def _weight_map(config: TransformerConfig) -> WeightMap:
    """The modules are numbered in sequence, the embedding first."""
    return (
        Entry("embedding", "0.weight"),
        *prefixed(_LAYER, "layers.", "{1}.fn."),
        Entry("final_norm.scale", f"{config.num_layers + 1}.gamma"),
        Entry("embedding", f"{config.num_layers + 2}.weight"),
    )


PALM = Family(
    "palm",
    _config,
    Transformer,
    _weight_map,
    ignored=r"(.*\.)?(beta|mask|pos_emb|rotary_emb\.inv_freq)",  # buffers
)
