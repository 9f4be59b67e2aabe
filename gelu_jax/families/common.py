"""What the configs of several families say alike."""

from collections.abc import Collection

from gelu_jax.errors import ConfigError, Problem
from gelu_jax.families.hf_config import HFConfig
from gelu_jax.nn.position import RotaryConfig, RotaryScaling
from gelu_jax.nn.variants import VARIANTS, Variant, branches


def heads(s: HFConfig, d_model: int, heads: str = "num_attention_heads") -> int:
    """The number of heads, which must divide the width where the heads' size follows from it."""
    number = s.integer(heads)
    if s.values.get("head_dim") is None and d_model % number:
        reason = f"must divide the model's width {d_model}"
        raise ConfigError([Problem(s.prefix + heads, number, reason)])
    return number


def gated(act: str) -> Variant:
    """The variant of two branches, act and identity: by its name where it has one."""
    wanted = branches((act, "identity"))
    names = (name for name, phis in VARIANTS.items() if phis == wanted)
    return next(names, (act, "identity"))


def rotary_config(s: HFConfig) -> RotaryConfig:
    """Rotary positions: ``rope_parameters``, or ``rope_theta`` and ``rope_scaling`` of old."""
    key = "rope_parameters" if s.values.get("rope_parameters") is not None else "rope_scaling"
    if s.values.get(key) is None:
        return RotaryConfig(theta=s.number("rope_theta", 10_000.0))
    rope = s.section(key)
    kind = "rope_type" if "rope_type" in rope.values or "type" not in rope.values else "type"
    stretched = rope.one_of(kind, ("default", "llama3"), "default") == "llama3"
    theta = rope if "rope_theta" in rope.values else s
    return RotaryConfig(
        theta=theta.number("rope_theta", 10_000.0),
        fraction=rope.number("partial_rotary_factor", 1.0),
        scaling=_scaling(rope) if stretched else None,
    )


def _scaling(rope: HFConfig) -> RotaryScaling:
    return RotaryScaling(
        factor=rope.number("factor"),
        low_frequency_factor=rope.number("low_freq_factor"),
        high_frequency_factor=rope.number("high_freq_factor"),
        original_positions=rope.integer("original_max_position_embeddings"),
    )


def holds(tensors: Collection[str], ending: str) -> bool:
    """Whether a tensor of that name is there, under whatever prefix."""
    return any(name == ending or name.endswith("." + ending) for name in tensors)
