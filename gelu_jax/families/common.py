"""What the configs of several families say alike."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from gelu_jax.errors import ConfigError, Problem
from gelu_jax.families.hf_config import HFConfig
from gelu_jax.nn.attention import AttentionConfig
from gelu_jax.nn.block import BlockConfig
from gelu_jax.nn.feed_forward import FeedForwardConfig
from gelu_jax.nn.norm import NormConfig
from gelu_jax.nn.position import (
    LinearScaling,
    LongRopeScaling,
    RotaryConfig,
    RotaryScaling,
    YarnScaling,
)
from gelu_jax.nn.stack import LayerKind
from gelu_jax.nn.transformer import TransformerConfig
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
        AttentionConfig(d, num_heads=whole_heads(hf, d), causal=causal, use_bias=True),
        FeedForwardConfig(
            d,
            d_ff=hf.integer("intermediate_size"),
            variant=hf.activation("hidden_act", activation),
            use_bias=True,
        ),
    )


def num_heads(hf: HFConfig, d_model: int) -> int:
    """The number of heads.

    Args:
      hf: the fields.
      d_model: the model's width, which the number divides where there is no ``head_dim``.

    Returns:
      The number.

    Raises:
      ConfigError: it does not divide the width.
    """
    if hf.given("head_dim") is not None:
        return hf.integer("num_attention_heads")
    return whole_heads(hf, d_model)


def whole_heads(hf: HFConfig, d_model: int, name: str = "num_attention_heads") -> int:
    """The number of heads that make up the model's width.

    Args:
      hf: the fields.
      d_model: the model's width, which the number divides.
      name: the field.

    Returns:
      The number.

    Raises:
      ConfigError: it does not divide the width.
    """
    number = hf.integer(name)
    if d_model % number:
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


def rotary_config(hf: HFConfig, theta: float = 10_000.0) -> RotaryConfig:
    """Rotary positions, from ``rope_parameters``, or ``rope_theta`` and ``rope_scaling`` of old.

    Args:
      hf: the fields.
      theta: where the fields have none.

    Returns:
      The rotation, with the stretch that the fields ask for.

    Raises:
      ConfigError: another stretch is asked for, or two that differ, or a share of each head, which
        transformers passes over in most families.
    """
    new, old = hf.given("rope_parameters"), hf.given("rope_scaling")
    if new and old and new != old:
        hf.require("rope_scaling", new)
    name = "rope_scaling" if old else "rope_parameters"
    # Its model_type is None: of these fields each stretch has its own, and no others matter.
    rope = hf.section(name) if new or old else HFConfig({}, hf.prefix)
    rope = rope.with_defaults(**_beside(hf, "rope_theta", "partial_rotary_factor"))
    original = _beside(hf, "original_max_position_embeddings")  # counts before the stretch's own
    return rotary_of(rope.with_values(**original), hf, theta)


def _beside(hf: HFConfig, *names: str) -> dict[str, Any]:
    """What files say beside the stretch, not in it."""
    return {name: hf.values[name] for name in names if hf.given(name) is not None}


def rotary_of_kinds(
    hf: HFConfig,
    thetas: tuple[float, float],
    old: tuple[str, str],
    stretch: Mapping[str, Any] = MappingProxyType({}),
) -> tuple[RotaryConfig, RotaryConfig]:
    """Rotary positions of full and of sliding layers, each with a section of ``rope_parameters``.

    Args:
      hf: the fields.
      thetas: of either, where the fields have none.
      old: the fields that have them in files of old.
      stretch: fields of the section of full layers, from elsewhere.

    Returns:
      The rotations.

    Raises:
      ConfigError: as in `rotary_of`.
    """
    nested = hf.section("rope_parameters") if hf.given("rope_parameters") else HFConfig({})
    full, sliding = (_part(nested, f"{kind}_attention") for kind in ("full", "sliding"))
    sections = full.with_values(**stretch), sliding
    made = (
        rotary_of(section.with_defaults(rope_theta=hf.number(field, theta)), hf, theta)
        for section, theta, field in zip(sections, thetas, old, strict=True)
    )
    return next(made), next(made)


def _part(nested: HFConfig, name: str) -> HFConfig:
    return nested.section(name) if nested.given(name) else HFConfig({}, nested.prefix)


def rotated_share(hf: HFConfig, head_size: int, default: float = 1.0) -> tuple[float, HFConfig]:
    """The share of each head that is rotated.

    Args:
      hf: the fields.
      head_size: entries of a head.
      default: where the fields have none.

    Returns:
      The share, and the fields without it.

    Raises:
      ConfigError: it is not a number above 0, or leaves half a pair.
    """
    field = "partial_rotary_factor"
    name = "rope_scaling" if hf.given("rope_scaling") else "rope_parameters"
    rope = dict(hf.section(name).values) if hf.given(name) else {}
    found = rope.pop(field, hf.values.get(field))
    share = default if found is None else HFConfig({field: found}, hf.prefix).number(field)
    if int(share * head_size) % 2:
        reason = f"must make an even number of a head's {head_size} entries"
        raise ConfigError([Problem(hf.prefix + field, share, reason)])
    return share, hf.with_values(**{name: rope, field: None})


def rotary_of(rope: HFConfig, hf: HFConfig, theta: float) -> RotaryConfig:
    """Rotary positions, from their section.

    Args:
      rope: its fields.
      hf: the fields beside it.
      theta: where the section has none.

    Returns:
      The rotation.

    Raises:
      ConfigError: a stretch that is not supported is asked for.
    """
    rope.require("partial_rotary_factor", 1.0)
    key = "type" if "rope_type" not in rope.values and "type" in rope.values else "rope_type"
    kind = rope.one_of(key, ("default", "dynamic", *_SCALINGS), "default")
    return RotaryConfig(
        theta=rope.number("rope_theta", theta),
        scaling=_SCALINGS[kind](rope, hf) if kind in _SCALINGS else None,
        valid_positions=hf.integer("max_position_embeddings") if kind == "dynamic" else None,
    )


def _original_positions(rope: HFConfig, hf: HFConfig) -> int:
    name = "original_max_position_embeddings"
    if rope.given(name) is None:
        return hf.integer("max_position_embeddings")
    return rope.integer(name)


def _linear(rope: HFConfig, hf: HFConfig) -> LinearScaling:
    return LinearScaling(rope.number("factor"))


def _llama3(rope: HFConfig, hf: HFConfig) -> RotaryScaling:
    return RotaryScaling(
        factor=rope.number("factor"),
        low_frequency_factor=rope.number("low_freq_factor"),
        high_frequency_factor=rope.number("high_freq_factor"),
        original_positions=_original_positions(rope, hf),
    )


def _yarn(rope: HFConfig, hf: HFConfig) -> YarnScaling:
    original = _original_positions(rope, hf)
    factor = _factor(rope, hf, original)
    return YarnScaling(
        factor=factor,
        original_positions=original,
        fast_turns=rope.number("beta_fast") if rope.given("beta_fast") else 32.0,
        slow_turns=rope.number("beta_slow") if rope.given("beta_slow") else 1.0,
        magnitude=_magnitude(rope, factor),
        whole_pairs=rope.flag("truncate", True),
    )


def _longrope(rope: HFConfig, hf: HFConfig) -> LongRopeScaling:
    original = _original_positions(rope, hf)
    return LongRopeScaling(
        short_factors=rope.numbers("short_factor"),
        long_factors=rope.numbers("long_factor"),
        original_positions=original,
        factor=_factor(rope, hf, original),
        magnitude=_attention_factor(rope),
    )


def _factor(rope: HFConfig, hf: HFConfig, original: int) -> float:
    if rope.given("factor") is None:
        return hf.integer("max_position_embeddings") / original
    return rope.number("factor")


def _attention_factor(rope: HFConfig) -> float | None:
    name = "attention_factor"
    return None if rope.given(name) is None else rope.number(name)


def _magnitude(rope: HFConfig, factor: float) -> float | None:
    """What DeepSeek's fields make of it, if they are both there."""
    if (given := _attention_factor(rope)) is not None:
        return given
    if not (rope.given("mscale") and rope.given("mscale_all_dim")) or factor <= 1:
        return None
    one, other = (0.1 * rope.number(n) * math.log(factor) + 1 for n in ("mscale", "mscale_all_dim"))
    return one / other


_SCALINGS = {"linear": _linear, "llama3": _llama3, "longrope": _longrope, "yarn": _yarn}


def with_attention(config: TransformerConfig, **changes: Any) -> TransformerConfig:
    """The model with other attention.

    Args:
      config: of the model.
      **changes: fields of its `AttentionConfig`.

    Returns:
      The config with them.
    """
    attention = replace(config.block.attention, **changes)
    return replace(config, block=replace(config.block, attention=attention))


def sliding_window(
    hf: HFConfig, config: TransformerConfig, default: int | None = None
) -> int | None:
    """The window of ``sliding_window``.

    Args:
      hf: the fields.
      config: of the model: without causality, transformers does not count the token itself.
      default: where the fields have none.

    Returns:
      The window; None for no limit.
    """
    window = hf.with_defaults(sliding_window=default).integer("sliding_window", None)
    return window if window is None or config.block.attention.causal else window + 1


def with_layer_types(
    config: TransformerConfig,
    hf: HFConfig,
    kinds: Mapping[str, LayerKind],
    default: Sequence[str],
) -> TransformerConfig:
    """The model with layers of several kinds, as ``layer_types`` lists them.

    Args:
      config: of the model.
      hf: the fields.
      kinds: what may stand in the list.
      default: the list where the fields have none.

    Returns:
      The config: its attention is changed where all layers are of one kind, else it has a pattern.

    Raises:
      ConfigError: the list has another length, or other kinds in it.
    """
    return with_pattern(config, layer_kinds(config, hf, kinds, default))


def layer_kinds(
    config: TransformerConfig,
    hf: HFConfig,
    kinds: Mapping[str, LayerKind],
    default: Sequence[str],
) -> list[LayerKind]:
    """The kind of each layer, as ``layer_types`` lists them.

    Args:
      config: of the model.
      hf: the fields.
      kinds: what may stand in the list.
      default: the list where the fields have none.

    Returns:
      The kinds.

    Raises:
      ConfigError: the list has another length, or other kinds in it.
    """
    found = hf.given("layer_types") or list(default)
    if not isinstance(found, list) or len(found) != config.num_layers:
        reason = f"must be a list of {config.num_layers} kinds of layers"
        raise ConfigError([Problem(f"{hf.prefix}layer_types", found, reason)])
    for kind in found:
        HFConfig({"layer_types": kind}, hf.prefix).one_of("layer_types", kinds, "")
    return [kinds[kind] for kind in found]


def with_pattern(config: TransformerConfig, layers: Sequence[LayerKind]) -> TransformerConfig:
    """The model with layers of several kinds.

    Args:
      config: of the model.
      layers: the kind of each.

    Returns:
      The config: its block is changed where all are alike, else it has the shortest pattern.
    """
    n = len(layers)
    repeats = (p for p in range(1, n + 1) if all(layers[i] == layers[i % p] for i in range(n)))
    period = next(repeats)
    if period == 1 and layers[0].normed:
        part = layers[0].feed_forward or config.block.feed_forward
        config = replace(config, block=replace(config.block, feed_forward=part))
        return with_attention(config, window=layers[0].window, rotary=layers[0].rotary)
    return replace(config, pattern=tuple(layers[:period]))


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
