"""What a run would need on devices that are not here, before anybody pays for them.

Nothing is run and nothing is compiled. A device's share of the state follows from its shardings.
What the device computes and keeps is counted in the traced program of the same model with its share
of heads, hidden units, vocabulary and batch. What it sends follows from the mesh.

Left out: the data, and whatever a compiler adds. Key/value heads that the tensor axis does not
divide count as divided. Experts compute as many tokens on every device, as where the load is even;
buffers count whole.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from math import prod
from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, AxisType

from gelu_jax.errors import ConfigError, Problem, check, nearest
from gelu_jax.nn.axes import axis_names
from gelu_jax.nn.cost import cost, room
from gelu_jax.nn.experts import MoEConfig
from gelu_jax.nn.feed_forward import FeedForwardConfig
from gelu_jax.nn.remat import Residuals
from gelu_jax.nn.routers import SigmoidRouterConfig
from gelu_jax.nn.stack import LayerKind
from gelu_jax.nn.transformer import TransformerConfig
from gelu_jax.training.chips import CHIPS, Chip
from gelu_jax.training.flops import Product, products
from gelu_jax.training.mesh import MeshConfig, mesh_problems, with_shardings
from gelu_jax.training.model import architecture, num_active_parameters
from gelu_jax.training.trainer import Keys, State, TrainConfig, init, loss

Part = FeedForwardConfig | MoEConfig


class StepCost(NamedTuple):
    """What a step costs on one device with one choice of residuals.

    Attributes:
      kept: bytes held from the forward to the backward pass, beside the weights.
      working: bytes of the cotangent of the logits, one layer's recomputed tensors and its gathered
        weights.
      flops: of the matrix products.
      memory: bytes that the matrix products and the update read and write.
      seconds: that computing, device memory and each axis that something is sent along would take,
        each on its own.
    """

    kept: int
    working: int
    flops: int
    memory: int
    seconds: Mapping[str, float]


class MemoryPlan(NamedTuple):
    """What a run needs. Weights and optimizer exist twice: before and after a chunk of steps.

    Attributes:
      mesh: devices along each axis.
      tokens: in a step, on all devices.
      parameters: of the model, on all devices.
      active_parameters: those of them that one token meets.
      weights: bytes on one device.
      gradients: bytes on one device.
      optimizer: bytes of its state on one device.
      sent: bytes that one device sends in a step, by axis of the mesh.
      choices: what a step costs, by choice of residuals.
    """

    mesh: Mapping[str, int]
    tokens: int
    parameters: int
    active_parameters: int
    weights: int
    gradients: int
    optimizer: int
    sent: Mapping[str, float]
    choices: Mapping[str, StepCost]


def plan_memory(config: TrainConfig, chip: Chip, devices: int) -> MemoryPlan:
    """Plans the run of a language model.

    Args:
      config: the run.
      chip: the device.
      devices: how many of them.

    Returns:
      The plan.

    Raises:
      ConfigError: the run does not fit the mesh, or does not train a transformer.
    """
    model = architecture(config.model)
    if not isinstance(model, TransformerConfig):
        raise ConfigError([Problem("model.kind", model.kind, "only a transformer is planned")])
    sizes = (config.mesh or MeshConfig()).sizes(devices)
    check(mesh_problems(sizes, model, config.batch_size))
    mesh = AbstractMesh(tuple(sizes.values()), tuple(sizes), (AxisType.Auto,) * len(sizes))
    state: State = with_shardings(jax.eval_shape(partial(init, config), Keys.of(0)), mesh)
    weights, whole = _bytes(state.model), _bytes(state)
    local = _on_one_device(config, model, sizes)
    sent = dict(_sent(local, model, state.model, sizes))
    every = {name: _kept(_with(local, name)) for name in get_args(Residuals)}
    every = _with_buffers(every, model, local, sizes["expert"])
    choices = {
        name: _choice(_with(local, name), kept, every["all"], sizes, 2 * whole, sent, chip)
        for name, kept in every.items()
    }
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.model))
    # a gradient has the dtype and the place of its weight
    tokens = prod(_batch(config).shape)
    active = num_active_parameters(state.model)
    state_bytes = weights, weights, whole - weights
    return MemoryPlan(sizes, tokens, parameters, active, *state_bytes, sent, choices)


def chip(name: str) -> Chip:
    """Looks a chip up in the table.

    Args:
      name: a key of `CHIPS`.

    Returns:
      The chip.

    Raises:
      ConfigError: there is no chip of this name.
    """
    if name not in CHIPS:
        raise ConfigError([Problem("chip", name, f"unknown; {nearest(name, CHIPS)}")])
    return CHIPS[name]


def total_memory(plan: MemoryPlan, residuals: str) -> int:
    """Adds up the memory that one device needs.

    Args:
      plan: the plan.
      residuals: one of `plan.choices`.

    Returns:
      Bytes.
    """
    choice = plan.choices[residuals]
    state = plan.weights + plan.optimizer
    return 2 * state + plan.gradients + choice.kept + choice.working


def describe(plan: MemoryPlan, chip: Chip, name: str) -> str:
    """Writes the plan as a table of text, a column for each choice of residuals.

    Args:
      plan: the plan.
      chip: the device that it was made for.
      name: of the device, as it is printed.

    Returns:
      Lines of text.
    """
    devices = prod(plan.mesh.values())
    experts = plan.active_parameters < plan.parameters
    active = f" ({plan.active_parameters:,} active)" if experts else ""
    mesh = ", ".join(f"{axis} {size}" for axis, size in plan.mesh.items())
    sent = ", ".join(f"{axis} {in_bytes(b)}" for axis, b in plan.sent.items() if b) or "nothing"
    rows = {
        "residuals": list(plan.choices),
        "kept from forward to backward": [in_bytes(c.kept) for c in plan.choices.values()],
        "working memory": [in_bytes(c.working) for c in plan.choices.values()],
        "all memory": [in_bytes(total_memory(plan, key)) for key in plan.choices],
        f"of {in_bytes(chip.memory)}": [
            "fits" if total_memory(plan, key) <= chip.memory else "does not fit"
            for key in plan.choices
        ],
        "matmuls of a step": [f"{c.flops / 1e12:,.3g} TFLOP" for c in plan.choices.values()],
        "a step takes at least": [f"{_slowest(c)[1]:.3g} s" for c in plan.choices.values()],
        "bound by": [_slowest(c)[0] for c in plan.choices.values()],
        "tokens/s at most": [f"{plan.tokens / _slowest(c)[1]:,.0f}" for c in plan.choices.values()],
    }
    return "\n".join(
        [
            f"{plan.parameters:,} parameters{active} on {devices} × {name} ({mesh})",
            f"weights {in_bytes(plan.weights)}, gradients {in_bytes(plan.gradients)}, "
            f"optimizer {in_bytes(plan.optimizer)}; sent in a step: {sent}",
            "",
            *(f"{title:<30}" + "".join(f"{v:>16}" for v in row) for title, row in rows.items()),
            "",
            "Memory, matmuls and what is sent are those of one device. Weights and optimizer count",
            "twice: as they were before a chunk of steps, and as they are after it.",
            f"{name}: {chip.source}.",
        ]
    )


def _slowest(choice: StepCost) -> tuple[str, float]:
    return max(choice.seconds.items(), key=lambda item: item[1])


def in_bytes(count: float) -> str:
    """A number of bytes, in three digits.

    Args:
      count: of bytes.

    Returns:
      The number with B, kB, MB or GB.

    >>> in_bytes(999), in_bytes(35_300_000)
    ('999 B', '35.3 MB')
    """
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.4g} GB"


def _on_one_device(
    config: TrainConfig, model: TransformerConfig, sizes: Mapping[str, int]
) -> TrainConfig:
    """The run with the share of the model and of the batch that one device computes."""
    n, a = sizes["tensor"], model.block.attention
    attention = replace(
        a,
        num_heads=a.num_heads // n,
        num_kv_heads=max(1, a.kv_heads // n),
        head_dim=a.head_size,
    )
    model = _with_parts(model, partial(_share_of_block, sizes=sizes))
    block = replace(model.block, attention=attention)
    vocabulary = model.vocab_size if model.vocab_size % n else model.vocab_size // n
    return replace(
        config,
        model=replace(model, block=block, vocab_size=vocabulary),
        batch_size=config.batch_size // (sizes["data"] * sizes["fsdp"] * sizes["expert"]),
        mesh=None,
    )


def _parts(model: TransformerConfig) -> Sequence[Part]:
    """The feed-forward part of each layer."""
    return model.feed_forwards or (model.block.feed_forward,) * model.num_layers


def _with_parts(model: TransformerConfig, change: Callable[[Part], Part]) -> TransformerConfig:
    """The model with all of its feed-forward parts changed."""

    def changed(kind: LayerKind) -> LayerKind:
        own = kind.feed_forward
        return kind if own is None else replace(kind, feed_forward=change(own))

    block = replace(model.block, feed_forward=change(model.block.feed_forward))
    return replace(model, block=block, pattern=tuple(map(changed, model.pattern)))


def _share_of_block(config: Part, sizes: Mapping[str, int]) -> Part:
    """Of a mixture the experts of one device, of which its own tokens pass as many as of all."""

    def share(f: FeedForwardConfig) -> FeedForwardConfig:
        return replace(f, d_ff=f.d_ff // sizes["tensor"])

    if isinstance(config, FeedForwardConfig):
        return share(config)
    held = max(config.num_experts // sizes["expert"], config.experts_per_token)
    router = config.router
    if isinstance(router, SigmoidRouterConfig):  # groups are chosen among all experts
        router = replace(router, num_groups=1, top_groups=1)
    shared = None if config.shared is None else share(config.shared)
    parts: dict[str, Any] = {"feed_forward": share(config.feed_forward), "shared": shared}
    return replace(config, **parts, num_experts=held, router=router)


def _with(config: TrainConfig, residuals: str) -> TrainConfig:
    model: Any = config.model

    def changed(part: Any) -> Any:
        if isinstance(part, MoEConfig):
            shared = None if part.shared is None else changed(part.shared)
            return replace(part, feed_forward=changed(part.feed_forward), shared=shared)
        stored = part.residual_dtype if residuals == "preactivation" else None
        return replace(part, residuals=residuals, residual_dtype=stored)

    return replace(config, model=_with_parts(model, changed))


def _with_buffers(
    kept: Mapping[str, int], model: TransformerConfig, local: TrainConfig, expert_devices: int
) -> dict[str, int]:
    """What is kept with the buffers in which tokens are exchanged, used or not, by residuals."""
    if expert_devices == 1:
        return dict(kept)
    hidden, more, received = 0, 0.0, 0.0  # entries of a token, beside those of the input
    for part in _parts(model):
        hidden += _active_width(part)
        if isinstance(part, MoEConfig):
            k, (tokens, choices) = part.experts_per_token, room(part, expert_devices)
            more += (choices - k) * part.num_branches * part.d_ff
            row = part.d_model * jnp.dtype(part.feed_forward.dtype).itemsize + 8 * k
            received += tokens * row
    received = round(received * prod(_batch(local).shape))
    return {
        name: n + received + round(more / hidden * (n - kept["input"])) for name, n in kept.items()
    }


def _active_width(part: Part) -> int:
    """Entries of all branches that one token has."""
    if isinstance(part, FeedForwardConfig):
        return part.num_branches * part.d_ff
    shared = 0 if part.shared is None else _active_width(part.shared)
    return part.num_branches * part.experts_per_token * part.d_ff + shared


def _choice(
    local: TrainConfig,
    kept: int,
    kept_by_autodiff: int,
    sizes: Mapping[str, int],
    state_traffic: int,
    sent: Mapping[str, float],
    chip: Chip,
) -> StepCost:
    model: Any = local.model
    tokens = prod(_batch(local).shape)
    working = 2 * 4 * tokens * model.vocab_size + (kept_by_autodiff - kept) // model.num_layers
    if sizes["fsdp"] > 1:
        layers = jax.eval_shape(partial(init, local), Keys.of(0)).model.layers
        working += _bytes(layers) // model.num_layers
    counted = _products(local)
    flops, traffic = sum(p.flops for p in counted), sum(p.bytes for p in counted) + state_traffic
    seconds = {"computing": flops / chip.flops, "memory": traffic / chip.bandwidth}
    seconds |= {axis: size / _link(chip, axis, sizes) for axis, size in sent.items() if size}
    return StepCost(kept, working, flops, traffic, seconds)


def gradient(config: TrainConfig, part: Any) -> tuple[Any, tuple[Any, ...]]:
    """Makes a function of the backward pass of a run's loss, and what to trace it with.

    Args:
      config: the run.
      part: what to make of the loss and the model, such as `lambda f, model: jax.grad(f)(model)`.

    Returns:
      The function and its abstract arguments: model, inputs and targets.
    """
    keys, tokens = Keys.of(0), _batch(config)
    model = jax.eval_shape(partial(init, config), keys).model

    def value(model: Any, inputs: Any, targets: Any) -> Any:
        return part(lambda model: loss(model, inputs, targets, keys.dropout)[0], model)

    return value, (model, tokens, tokens)


def _batch(config: TrainConfig) -> jax.ShapeDtypeStruct:
    context: int = getattr(config.data, "context", 1)
    return jax.ShapeDtypeStruct((config.batch_size, context), jnp.int32)


def _kept(config: TrainConfig) -> int:
    """Bytes from the forward to the backward pass, beside the weights themselves."""
    f, arguments = gradient(config, lambda f, model: jax.vjp(f, model)[1])
    program = jax.make_jaxpr(f)(*arguments).jaxpr
    kept = {id(v): v.aval for v in program.outvars if not hasattr(v, "val")}
    given = {id(v) for v in program.invars}
    return sum(a.size * a.dtype.itemsize for name, a in kept.items() if name not in given)


def _products(config: TrainConfig) -> list[Product]:
    f, arguments = gradient(config, lambda f, model: jax.grad(f)(model))
    return products(f, *arguments)


def _sent(
    local: TrainConfig, whole: TransformerConfig, model: Any, sizes: Mapping[str, int]
) -> Iterator[tuple[str, float]]:
    """What a device sends along each axis, by the ring algorithms of gathers and reductions."""
    config: Any = local.model
    itemsize = jnp.dtype(config.dtype).itemsize
    layers, tables = _split_bytes(model.layers, itemsize), _split_bytes(model, itemsize)
    tables -= layers
    data, fsdp, expert, tensor = (sizes[axis] for axis in ("data", "fsdp", "expert", "tensor"))
    # a layer is gathered forward and backward, a table once; each gradient is reduced once,
    # but for a tied table's, of which the lookup and the head have one each
    reduced = layers + tables * (2 if model.head is None else 1)
    yield "fsdp", (fsdp - 1) * (2 * layers + tables + reduced)
    yield "data", 2 * (data - 1) / data * reduced
    tokens = prod(_batch(local).shape)
    parts, everywhere = _parts(whole), reduced - _split_bytes(model, itemsize, "x")
    exchanged = tokens * sum(cost(part, expert_devices=expert).bytes_sent for part in parts)
    yield "expert", 2 * (expert - 1) / expert * everywhere + exchanged
    # the attention's and the feed-forward's sums, and the cotangents of what each branch reads
    sums = sum(2 + 3 + part.num_branches for part in parts) + 2  # + the lookup, and the head's
    stream = tokens * config.block.d_model * itemsize
    yield "tensor", 2 * (tensor - 1) / tensor * stream * sums


def _link(chip: Chip, axis: str, sizes: Mapping[str, int]) -> float:
    """Bytes/s along an axis: the fast link, if all its devices share a domain."""
    names = list(sizes)
    within = prod(sizes[name] for name in names[names.index(axis) :])
    return chip.link if within <= chip.domain else chip.network


def _split_bytes(tree: Any, itemsize: int, axis: str = "") -> int:
    """Bytes of a device's share of all matrices, or of those with an axis, as they are sent."""
    leaves = zip(jax.tree.leaves(tree), axis_names(tree), strict=True)
    matrices = ((leaf, axes.split()) for leaf, axes in leaves if len(axes.split()) > 1)
    return itemsize * sum(_share(leaf) for leaf, axes in matrices if not axis or axis in axes)


def _bytes(tree: Any) -> int:
    return sum(_share(leaf) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _share(leaf: Any) -> int:
    """Entries of an array that one device holds."""
    return prod(leaf.shape if leaf.sharding is None else leaf.sharding.shard_shape(leaf.shape))
