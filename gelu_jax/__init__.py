"""Activations, feed-forward blocks and transformers for JAX and Flax.

>>> import gelu_jax as gj, jax.numpy as jnp
>>> from flax import nnx
>>> config = gj.FeedForwardConfig(d_model=64, d_ff=168, variant="swiglu")
>>> gj.FeedForward(config, rngs=nnx.Rngs(0))(jnp.ones((2, 64))).shape
(2, 64)
"""

# first, as Ctrl-C may come while jax is imported
from gelu_jax import signals as _signals  # noqa: F401 # pyright: ignore[reportUnusedImport]

# isort: split
from gelu_jax import linen
from gelu_jax.activations import (
    ACTIVATIONS,
    IN_FLOAT32,
    activation,
    celu,
    elementwise,
    elu,
    fatrelu,
    gelu,
    gelu_10,
    gelu_sigmoid,
    gelu_tanh,
    golu,
    hard_sigmoid,
    hard_silu,
    identity,
    laplace,
    leaky_relu,
    leaky_relu_squared,
    mish,
    powlu,
    prelu,
    relu,
    relu6,
    relu_squared,
    selu,
    sigmoid,
    silu,
    situ,
    softcap_25,
    softplus,
    sqrt_softplus,
    tanh,
    xielu,
)
from gelu_jax.errors import ConfigError
from gelu_jax.nn.attention import Attention, AttentionConfig, Cache, attention
from gelu_jax.nn.balance import (
    RoutingStatistics,
    auxiliary_loss,
    expert_load,
    updated_choice_bias,
    z_loss,
)
from gelu_jax.nn.block import Block, BlockConfig
from gelu_jax.nn.cost import cost, llama_width, matched_width
from gelu_jax.nn.experts import MoE, MoEConfig, mixture_of_experts
from gelu_jax.nn.feed_forward import FeedForward, FeedForwardConfig, feed_forward
from gelu_jax.nn.mlp import MLP, MLPConfig
from gelu_jax.nn.norm import Norm, NormConfig, layer_norm, rms_norm
from gelu_jax.nn.position import RotaryConfig, rotary
from gelu_jax.nn.replace import Replaced, replace_feed_forward
from gelu_jax.nn.routers import (
    Routing,
    SigmoidRouterConfig,
    SoftmaxRouterConfig,
    SwitchRouterConfig,
    TopKSoftmaxRouterConfig,
    sigmoid_routing,
    softmax_routing,
    top_k_softmax_routing,
)
from gelu_jax.nn.stack import LayerKind
from gelu_jax.nn.transformer import Transformer, TransformerConfig
from gelu_jax.nn.variants import VARIANTS, Variant, branches
from gelu_jax.version import __version__

__all__ = [
    "ACTIVATIONS",
    "IN_FLOAT32",
    "MLP",
    "VARIANTS",
    "Attention",
    "AttentionConfig",
    "Block",
    "BlockConfig",
    "Cache",
    "ConfigError",
    "FeedForward",
    "FeedForwardConfig",
    "LayerKind",
    "MLPConfig",
    "MoE",
    "MoEConfig",
    "Norm",
    "NormConfig",
    "Replaced",
    "RotaryConfig",
    "Routing",
    "RoutingStatistics",
    "SigmoidRouterConfig",
    "SoftmaxRouterConfig",
    "SwitchRouterConfig",
    "TopKSoftmaxRouterConfig",
    "Transformer",
    "TransformerConfig",
    "Variant",
    "__version__",
    "activation",
    "attention",
    "auxiliary_loss",
    "branches",
    "celu",
    "cost",
    "elementwise",
    "elu",
    "expert_load",
    "fatrelu",
    "feed_forward",
    "gelu",
    "gelu_10",
    "gelu_sigmoid",
    "gelu_tanh",
    "golu",
    "hard_sigmoid",
    "hard_silu",
    "identity",
    "laplace",
    "layer_norm",
    "leaky_relu",
    "leaky_relu_squared",
    "linen",
    "llama_width",
    "matched_width",
    "mish",
    "mixture_of_experts",
    "powlu",
    "prelu",
    "relu",
    "relu6",
    "relu_squared",
    "replace_feed_forward",
    "rms_norm",
    "rotary",
    "selu",
    "sigmoid",
    "sigmoid_routing",
    "silu",
    "situ",
    "softcap_25",
    "softmax_routing",
    "softplus",
    "sqrt_softplus",
    "tanh",
    "top_k_softmax_routing",
    "updated_choice_bias",
    "xielu",
    "z_loss",
]
