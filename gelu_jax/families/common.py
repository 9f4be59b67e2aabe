"""What the configs of several families say alike."""

from collections.abc import Collection

from gelu_jax.errors import ConfigError, Problem
from gelu_jax.families.hf_config import HFConfig
from gelu_jax.nn.attention import AttentionConfig
from gelu_jax.nn.block import BlockConfig
from gelu_jax.nn.feed_forward import FeedForwardConfig
from gelu_jax.nn.norm import NormConfig
from gelu_jax.nn.position import RotaryConfig, RotaryScaling
from gelu_jax.nn.variants import VARIANTS, Variant, branches


def bert_block(hf: HFConfig, *, epsilon: float, activation: str, causal: bool) -> BlockConfig:
    """The block of BERT, ViT and CLIP: LayerNorms, attention and two dense layers, all with biases.

    Args:
      hf: the fields of the model, or of one of its towers.
      epsilon: of the norms where ``layer_norm_eps`` is absent.
      activation: where ``hidden_act`` is absent.
      causal: whether a token sees only those before it.

    Returns:
      The block, with the norms before attention and feed-forward.
    """
    d = hf.integer("hidden_size")
    return BlockConfig(
        NormConfig(d, use_bias=True, epsilon=hf.number("layer_norm_eps", epsilon)),
        AttentionConfig(d, num_heads=num_heads(hf, d), causal=causal, use_bias=True),
        FeedForwardConfig(
            d,
            d_ff=hf.integer("intermediate_size"),
            variant=hf.activation("hidden_act", activation),
            use_bias=True,
        ),
    )


def num_heads(hf: HFConfig, d_model: int, name: str = "num_attention_heads") -> int:
    """The number of heads.

    Args:
      hf: the fields.
      d_model: the model's width, which the number divides where there is no ``head_dim``.
      name: the field.

    Returns:
      The number.

    Raises:
      ConfigError: it does not divide the width.
    """
    number = hf.integer(name)
    if hf.values.get("head_dim") is None and d_model % number:
        reason = f"must divide the model's width {d_model}"
        raise ConfigError([Problem(hf.prefix + name, number, reason)])
    return number


def gated(activation: str) -> Variant:
    """The variant of two branches: an activation, and none.

    Args:
      activation: its name.

    Returns:
      The variant's name where it has one, else the two names.

    >>> gated("silu"), gated("tanh")
    ('swiglu', ('tanh', 'identity'))
    """
    expected = branches((activation, "identity"))
    names = (name for name, found in VARIANTS.items() if found == expected)
    return next(names, (activation, "identity"))


def rotary_config(hf: HFConfig) -> RotaryConfig:
    """Rotary positions, from ``rope_parameters``, or ``rope_theta`` and ``rope_scaling`` of old.

    Args:
      hf: the fields.

    Returns:
      The rotation, with LLaMA 3's scaling where the fields say so.

    Raises:
      ConfigError: another scaling is asked for.
    """
    key = "rope_parameters" if hf.values.get("rope_parameters") is not None else "rope_scaling"
    if hf.values.get(key) is None:
        return RotaryConfig(theta=hf.number("rope_theta", 10_000.0))
    rope = hf.section(key)
    kind = "rope_type" if "rope_type" in rope.values or "type" not in rope.values else "type"
    scaled = rope.one_of(kind, ("default", "llama3"), "default") == "llama3"
    theta = rope if "rope_theta" in rope.values else hf
    return RotaryConfig(
        theta=theta.number("rope_theta", 10_000.0),
        fraction=rope.number("partial_rotary_factor", 1.0),
        scaling=_llama3_scaling(rope) if scaled else None,
    )


def _llama3_scaling(rope: HFConfig) -> RotaryScaling:
    return RotaryScaling(
        factor=rope.number("factor"),
        low_frequency_factor=rope.number("low_freq_factor"),
        high_frequency_factor=rope.number("high_freq_factor"),
        original_positions=rope.integer("original_max_position_embeddings"),
    )


def has_tensor(tensors: Collection[str], name: str) -> bool:
    """Whether a tensor is there, under whatever prefix.

    Args:
      tensors: the names of all that are there.
      name: the end of the name, from a dot on.

    Returns:
      True where it is.

    >>> has_tensor(["bert.pooler.dense.weight"], "pooler.dense.weight")
    True
    """
    return any(tensor == name or tensor.endswith("." + name) for tensor in tensors)
