"""DeepSeek-V3's feed-forward parts (DeepSeek-AI 2024): dense in the first layers, then mixtures.

Its attention is not here: `load_feed_forward` reads a layer's block or mixture; `load` refuses it.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace

from flax import nnx

from gelu_jax.families.common import gated
from gelu_jax.families.family import Family
from gelu_jax.families.hf_config import HFConfig
from gelu_jax.families.llama import FEED_FORWARD
from gelu_jax.families.mixtures import OF_TRAINING, mixture, num_experts, of_feed_forwards
from gelu_jax.families.qwen_moe import BRANCHES, SPARSE
from gelu_jax.families.weight_map import Entry, WeightMap, feed_forward, prefixed
from gelu_jax.nn.experts import MoEConfig
from gelu_jax.nn.feed_forward import FeedForwardConfig
from gelu_jax.nn.routers import SigmoidRouterConfig
from gelu_jax.nn.stack import init_feed_forwards


@dataclass(frozen=True)
class FeedForwardsConfig:
    """The feed-forward part of each layer of a model.

    Attributes:
      parts: in the order of the layers.
    """

    parts: tuple[FeedForwardConfig | MoEConfig, ...]


class _Layers(nnx.Module):
    def __init__(self, config: FeedForwardsConfig, *, rngs: nnx.Rngs):
        self.feed_forward = init_feed_forwards(config.parts, rngs=rngs)


class _Model(nnx.Module):
    def __init__(self, config: FeedForwardsConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.layers = _Layers(config, rngs=rngs)


def _config(hf: HFConfig, _: Collection[str]) -> FeedForwardsConfig:
    hf = hf.with_defaults(moe_intermediate_size=2048, intermediate_size=18432, n_shared_experts=1)
    hf = hf.with_defaults(first_k_dense_replace=3, num_hidden_layers=61, hidden_size=7168)
    act = gated(hf.activation("hidden_act", "silu"))
    dense = FeedForwardConfig(hf.integer("hidden_size"), hf.integer("intermediate_size"), act)
    expert = replace(dense, d_ff=hf.integer("moe_intermediate_size"))
    shared = replace(dense, d_ff=hf.integer("n_shared_experts") * expert.d_ff)
    number = num_experts(hf, "n_routed_experts", "num_local_experts", 256)
    sparse = replace(mixture(hf, expert, number, _router(hf), k=8), shared=shared)
    first = 0 if hf.given("first_k_dense_replace") == 0 else hf.integer("first_k_dense_replace")
    layers = range(hf.integer("num_hidden_layers"))
    return FeedForwardsConfig(tuple(dense if i < first else sparse for i in layers))


def _router(hf: HFConfig) -> SigmoidRouterConfig:
    hf = hf.with_defaults(n_group=8, topk_group=4)
    return SigmoidRouterConfig(
        num_groups=hf.integer("n_group"),
        top_groups=hf.integer("topk_group"),
        renormalize=hf.flag("norm_topk_prob", True),
        scale=hf.number("routed_scaling_factor", 2.5),
    )


_SPARSE = (
    *SPARSE,
    Entry("feed_forward.router.choice_bias", "mlp.gate.e_score_correction_bias"),
    *feed_forward(
        "feed_forward.shared",
        [f"mlp.shared_experts.{branch}" for branch in BRANCHES],
        "mlp.shared_experts.down_proj",
    ),
)


def _weight_map(config: FeedForwardsConfig) -> WeightMap:
    parts = of_feed_forwards(config.parts, FEED_FORWARD, _SPARSE)
    return prefixed(parts, "layers.", "model.layers.{}.")


DEEPSEEK_V3 = Family(
    "deepseek_v3",
    _config,
    _Model,
    _weight_map,
    aliases=((r"^model\.", ""),),
    # all that is no feed-forward part, and the layer that predicts a second token
    ignored=r"(?!.*\.mlp\.).*|model\.layers\.61\..*",
    without_effect=OF_TRAINING
    | {
        *("attention_bias", "head_dim", "kv_lora_rank", "q_lora_rank", "qk_head_dim"),
        *("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "rope_interleave"),
        *("num_attention_heads", "num_key_value_heads", "rope_parameters", "rope_scaling"),
        *("rope_theta", "max_position_embeddings", "rms_norm_eps", "vocab_size", "is_causal"),
        *("tie_word_embeddings", "pretraining_tp", "num_mtp_layers", "num_nextn_predict_layers"),
    },
)
