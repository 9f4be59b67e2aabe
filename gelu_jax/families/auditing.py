"""What a checkpoint says it is, what is odd about it, and where two of them first differ."""

import inspect
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gelu_jax.errors import ConfigError, Problem
from gelu_jax.families.files import locate, read_tensor, safetensors_package
from gelu_jax.families.hf_config import HFConfig, read_json
from gelu_jax.families.load_plan import plan_load
from gelu_jax.families.loading import load
from gelu_jax.families.tree import configs_in, leaves_of
from gelu_jax.families.weight_map import Part, whole_shape
from gelu_jax.nn.encoder import Encoder
from gelu_jax.nn.feed_forward import FeedForwardConfig
from gelu_jax.nn.transformer import Transformer
from gelu_jax.nn.variants import branches

_FIELDS = (
    "hidden_act", "hidden_activation", "activation_function", "activation",
    "feed_forward_proj", "dense_act_fn", "projector_hidden_act",
)  # fmt: skip


def audit(path: str | os.PathLike[str]) -> list[str]:
    """Says what a checkpoint is: its feed-forward block, its size, its layout, what is odd.

    Reads its config.json and the headers of its files, no weights.

    Args:
      path: as in `gelu_jax.families.load`.

    Returns:
      Lines of text; those of what is odd begin with "odd: ".

    Raises:
      ConfigError: as in `gelu_jax.families.load`.
    """
    folder = locate(path)
    values = read_json(folder / "config.json")
    plan = plan_load(folder, None)
    blocks = dict.fromkeys(configs_in(plan.model.config, FeedForwardConfig))
    tensors = plan.tensors.values()
    dtypes = ", ".join(sorted({tensor.dtype for tensor in tensors}))
    number = sum(prod(leaf.shape) for _, leaf in leaves_of(plan.model)[0])
    return [
        f"model_type: {values['model_type']}; {type(plan.model).__name__}",
        f"parameters: {number:,} in {len(tensors)} tensors, {dtypes}",
        *(line for block in blocks for line in _described(block)),
        *_layout(plan.parts),
        *(f"odd: {line}" for line in _odd(values, blocks, plan.model.source.ignored)),
    ]


def _described(block: FeedForwardConfig) -> Iterator[str]:
    variant = (
        block.variant if isinstance(block.variant, str) else " · ".join(map(str, block.variant))
    )
    yield f"feed-forward: {variant}, {block.d_model} → {block.d_ff}, bias: {block.use_bias}"
    for phi in branches(block.variant):
        name = getattr(phi, "__name__", type(phi).__name__)
        yield f"  {name}: {(inspect.getdoc(phi) or '').partition(chr(10))[0]}"


def _layout(parts: Mapping[str, list[Part]]) -> Iterator[str]:
    """The tensors of the first layer's feed-forward block."""
    for name, held in parts.items():
        paths = [part.entry.path for part in held if not any(part.place)]
        ours = [path for path in paths if re.search(r"feed_forward\.\w+", path)]
        if ours:
            yield f"  {name} {whole_shape(held)}: {', '.join(ours)}"


def _odd(
    values: Mapping[str, Any], blocks: Mapping[FeedForwardConfig, None], ignored: tuple[str, ...]
) -> Iterator[str]:
    used = {getattr(phi, "__name__", "") for block in blocks for phi in branches(block.variant)}
    for field in _FIELDS:
        said = values.get(field)
        if not isinstance(said, str):
            continue
        meant = HFConfig({field: said.removeprefix("gated-")}).activation(field)
        if meant not in used:
            yield f"{field} says {said}, which is {meant}; computed is {', '.join(sorted(used))}"
        elif said.removeprefix("gated-") != meant:
            yield f"{field} says {said}, which is {meant}"
    for name in ignored:
        yield f"{name} is not used, by transformers neither"


def differences(
    path: str | os.PathLike[str], other: str | os.PathLike[str], *, num_tokens: int = 16
) -> list[str]:
    """Says where two checkpoints first differ: fields, tensors, and hidden states layer by layer.

    Args:
      path: as in `gelu_jax.families.load`.
      other: likewise.
      num_tokens: length of the text of random tokens that both are given.

    Returns:
      Lines of text; none where all is equal.

    Raises:
      ConfigError: as in `gelu_jax.families.load`.
    """
    one, two = locate(path), locate(other)
    lines = [*_different_fields(one, two), *_different_tensors(one, two)]
    models = load(one), load(two)
    return lines + list(_different_states(*models, num_tokens)) if lines else []


def _different_fields(one: Path, two: Path) -> Iterator[str]:
    a, b = (read_json(folder / "config.json") for folder in (one, two))
    for name in sorted(a.keys() | b.keys()):
        if a.get(name) != b.get(name):
            yield f"config.json: {name} = {a.get(name)!r}, and {b.get(name)!r}"


def _different_tensors(one: Path, two: Path) -> Iterator[str]:
    """The first tensor that is not in both, or not the same, and how many more there are."""
    a, b = (plan_load(folder, None).tensors for folder in (one, two))
    found = [f"{name}: in one of them alone" for name in sorted(a.keys() ^ b.keys())]
    for name in sorted(a.keys() & b.keys()):
        if a[name][1:] != b[name][1:]:
            found.append(
                f"{name}: {a[name].shape} {a[name].dtype}, and {b[name].shape} {b[name].dtype}"
            )
            continue
        x, y = (np.asarray(read_tensor(t[name], name), np.float32) for t in (a, b))
        if not np.array_equal(x, y):
            found.append(f"{name}: differs by up to {np.abs(x - y).max():.3g}")
    yield from found[:1]
    if found[1:]:
        yield f"and {len(found) - 1} more tensors differ"


def state_differences(
    path: str | os.PathLike[str],
    tokens: Any,
    states: Sequence[Any],
    *,
    mask: Any = None,
) -> list[str]:
    """Says after which layer a model of torch and ours, of one checkpoint, first differ.

    Args:
      path: of the checkpoint, as in `gelu_jax.families.load`.
      tokens: (b, t), which both are given; of torch, NumPy or JAX, as states and mask.
      states: (b, t, d) each: the input of the first layer and the output of each, the last one
        after the final norm, as transformers returns ``hidden_states``.
      mask: (b, t), nonzero at real tokens, which alone are compared; None for no padding.

    Returns:
      Lines of text; none where all is equal up to rounding.

    Raises:
      ConfigError: as in `gelu_jax.families.load`; or the model has another number of layers, or is
        no model of texts with one stack of them.
    """
    model = load(path)
    stack = model.transformer if isinstance(model, Encoder) else model
    if not isinstance(stack, Transformer):
        raise ConfigError([Problem("path", path, "not a model of texts with one stack of layers")])
    real = None if mask is None else np.asarray(_plain(mask)) != 0
    given = np.asarray(_plain(tokens)).astype(np.int32)
    ours = stack.states(jnp.asarray(given), mask=None if real is None else jnp.asarray(real))
    if len(ours) != len(states):
        reason = f"there must be {len(ours)}: the embeddings, and one for each layer"
        raise ConfigError([Problem("states", len(states), reason)])
    ours[-1] = stack.final_hidden(ours[-1])
    kept = ... if real is None else real
    theirs = (np.asarray(_plain(x), np.float32)[kept] for x in states)
    return list(_first_difference((np.asarray(x)[kept] for x in ours), theirs))


def file_differences(path: str | os.PathLike[str], file: str | os.PathLike[str]) -> list[str]:
    """`state_differences` with what a safetensors file holds.

    Args:
      path: of the checkpoint, as in `gelu_jax.families.load`.
      file: with ``tokens``, ``states.0``, ``states.1``, …, and ``mask`` or none.

    Returns:
      As `state_differences`.

    Raises:
      ConfigError: as in `state_differences`; or the file has no such tensors, or is unreadable.
    """
    library = safetensors_package()
    try:
        with library.safe_open(file, framework="np") as tensors:
            held = {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118
    except (OSError, library.SafetensorError) as error:
        raise ConfigError([Problem("other", file, f"no safetensors file ({error})")]) from None
    number = sum(re.fullmatch(r"states\.\d+", name) is not None for name in held)
    needed = ["tokens", *(f"states.{i}" for i in range(number))]
    if not number or not held.keys() >= set(needed):
        raise ConfigError([Problem("other", file, "must hold tokens, states.0, states.1, …")])
    tokens, *states = (held[name] for name in needed)
    return state_differences(path, tokens, states, mask=held.get("mask"))


def _plain(x: Any) -> Any:
    """What NumPy reads: of torch, without its gradient."""
    return x.detach().cpu().float() if hasattr(x, "detach") else x


def _first_difference(ones: Iterable[Any], others: Iterable[Any]) -> Iterator[str]:
    """The first layer after which hidden states differ by more than rounding."""
    for layer, (x, y) in enumerate(zip(ones, others, strict=True)):
        x, y = np.asarray(x, np.float32), np.asarray(y, np.float32)
        found = float(np.abs(x - y).max() / np.abs(x).max())
        if not found <= 1e-5:
            where = "the embeddings" if layer == 0 else f"layer {layer - 1}"
            yield f"hidden states first differ after {where}: by {found:.2g} of the largest"
            return


def _different_states(one: Any, two: Any, num_tokens: int) -> Iterator[str]:
    """The first layer after which the hidden states of two checkpoints differ."""
    stacks = [model.transformer if isinstance(model, Encoder) else model for model in (one, two)]
    if not all(isinstance(stack, Transformer) for stack in stacks):
        return
    a, b = (stack.config for stack in stacks)
    if (a.vocab_size, a.num_layers, a.block.d_model) != (
        b.vocab_size,
        b.num_layers,
        b.block.d_model,
    ):
        raise ConfigError([Problem("other", two.config, "of another size: not compared by layers")])
    tokens = jax.random.randint(jax.random.key(0), (1, num_tokens), 0, a.vocab_size)
    yield from _first_difference(*(stack.states(tokens) for stack in stacks))
