"""The optimizer: optax, from a config, with a learning rate that may be traced."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.tree_util import KeyPath
from jaxtyping import Array, Float
from pydantic import Field

from gelu_jax.errors import Problem, check
from gelu_jax.nn import checks
from gelu_jax.nn.axes import axis_names
from gelu_jax.training.python import Python, refuse

_RMS = 0.2  # of Muon's updates, which is that of AdamW's (Liu et al. 2025, section 2.2)


@dataclass(frozen=True, kw_only=True)
class PythonSchedule(Python):
    """A schedule of the person's own.

    The factory returns a function of the step, as optax's schedules are, that gives the learning
    rate as a share of its peak. It is given ``steps``, those after the warm-up, where it has such a
    parameter.

    >>> shape = PythonSchedule(factory="optax:linear_schedule", arguments={"init_value": 1.0,
    ...     "end_value": 0.0, "transition_steps": 4})
    >>> shape.kind
    'python'
    """


Name: TypeAlias = Literal["cosine", "linear", "constant", "wsd"]
Schedule: TypeAlias = Name | PythonSchedule


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW, Adam, SGD or Muon; warm-up, then a schedule; clipping by global norm.

    Muon (Jordan et al. 2024) is that of `optax.contrib`: kernels, also those of stacked layers,
    get orthogonalized momentum of decay 0.95, scaled to the size of Adam's updates (Liu et al.
    2025, "Muon is scalable for LLM training"), so that one learning rate serves all; embeddings,
    heads, biases and scales get Adam with Nesterov momentum. Of a model of a person's own,
    parameters with two axes that are no ``embedding`` count as kernels.

    Attributes:
      name: the update rule.
      learning_rate: the peak of the schedule.
      schedule: how the learning rate falls from its peak, or that it does not: "cosine", "linear",
        "constant", "wsd", which stays at the peak and falls linearly in the last `decay_steps` (Hu
        et al. 2024, "MiniCPM"), or one of the person's own.
      warmup_steps: steps in which it rises linearly to its peak; the first has 1 / warmup_steps of
        it.
      weight_decay: of AdamW and Muon; applies to kernels and embeddings, not to biases, norm scales
        and what activations learn.
      b1: decay of Adam's first moment, in [0, 1); the momentum of SGD.
      b2: decay of Adam's second moment, in [0, 1).
      epsilon: added to the root of Adam's second moment.
      clip_norm: the most that the global norm of the gradient may be; None does not clip.
      min_learning_rate: what the schedule falls to.
      decay_steps: of "wsd"; None is a fifth of all steps.
      kind: always "optax".
    """

    name: Literal["adamw", "adam", "sgd", "muon"] = "adamw"
    learning_rate: float = 1e-3
    schedule: Schedule = "cosine"
    warmup_steps: int = 0
    weight_decay: float = 0.0
    b1: float = 0.9
    b2: float = 0.999
    epsilon: float = 1e-8
    clip_norm: float | None = 1.0
    min_learning_rate: float = 0.0
    decay_steps: int | None = None
    kind: Literal["optax"] = "optax"

    def __post_init__(self):
        check(self._problems())

    @property
    def peak(self) -> float:
        """The learning rate of a run that is not tuned."""
        return self.learning_rate

    def _problems(self) -> Iterator[Problem]:
        yield from checks.one_of(tuple(_RULES), name=self.name)
        yield from checks.positive(
            learning_rate=self.learning_rate, epsilon=self.epsilon, clip_norm=self.clip_norm
        )
        yield from checks.not_negative(weight_decay=self.weight_decay)
        yield from checks.finite(
            learning_rate=self.learning_rate,
            epsilon=self.epsilon,
            clip_norm=self.clip_norm,
            weight_decay=self.weight_decay,
        )
        yield from checks.below_one(b1=self.b1, b2=self.b2)
        yield from _schedule_problems(self, self.learning_rate)
        if self.weight_decay and self.name not in ("adamw", "muon"):
            reason = "only adamw and muon have weight decay"
            yield Problem("weight_decay", self.weight_decay, reason)


@dataclass(frozen=True, kw_only=True)
class PythonOptimizer(Python):
    """An optimizer of the person's own: any optax transformation, made by a factory.

    The factory is given ``learning_rate``, a schedule, and ``steps`` where it has such a parameter,
    so that those of optax can be named as they are. One without ``learning_rate`` has a rate of its
    own, which cannot be tuned.

    Attributes:
      learning_rate: the peak of the schedule; None where the factory does not take one.
      schedule: as in `OptimizerConfig`.
      warmup_steps: as in `OptimizerConfig`.
      min_learning_rate: as in `OptimizerConfig`.
      decay_steps: as in `OptimizerConfig`.

    >>> lion = PythonOptimizer(factory="optax:lion", learning_rate=1e-4, arguments={"b1": 0.95})
    >>> make_optimizer(lion, 100, 1e-4).init({"w": jnp.ones(2)})[0].mu["w"].shape
    (2,)
    """

    learning_rate: float | None = None
    schedule: Schedule = "cosine"
    warmup_steps: int = 0
    min_learning_rate: float = 0.0
    decay_steps: int | None = None

    @property
    def peak(self) -> float:
        """The learning rate of a run that is not tuned; 1 where the optimizer has its own."""
        return 1.0 if self.learning_rate is None else self.learning_rate

    def _problems(self) -> Iterator[Problem]:
        problems = list(super()._problems())
        yield from problems
        rate = self.learning_rate
        yield from checks.positive(learning_rate=rate)
        yield from checks.finite(learning_rate=rate)
        yield from _schedule_problems(self, self.peak)
        if not problems and self.takes("learning_rate") == (rate is None):
            takes = "takes one" if rate is None else "does not take one"
            yield Problem("learning_rate", rate, f"{self.factory} {takes}")


Optimizer: TypeAlias = Annotated[OptimizerConfig | PythonOptimizer, Field(discriminator="kind")]


def with_learning_rate(config: Optimizer, learning_rate: float) -> Any:
    """The same optimizer with another peak of its learning rate.

    Args:
      config: the optimizer.
      learning_rate: the peak.

    Returns:
      A new config; the same, where the peak is.

    Raises:
      ConfigError: the optimizer has a rate of its own, or a floor above it.
    """
    return config if config.peak == learning_rate else replace(config, learning_rate=learning_rate)


def _schedule_problems(config: Any, peak: float) -> Iterator[Problem]:
    if isinstance(config.schedule, str):
        yield from checks.one_of(tuple(_SCHEDULES), schedule=config.schedule)
    yield from checks.not_negative(
        warmup_steps=config.warmup_steps, min_learning_rate=config.min_learning_rate
    )
    yield from checks.positive(decay_steps=config.decay_steps)
    if config.min_learning_rate > peak:
        reason = f"is more than learning_rate = {peak:g}"
        yield Problem("min_learning_rate", config.min_learning_rate, reason)
    if config.decay_steps is not None and config.schedule != "wsd":
        yield Problem("decay_steps", config.decay_steps, "only the schedule wsd has them")


def length_problems(config: Optimizer, steps: int) -> Iterator[Problem]:
    """Checks that the parts of a schedule fit into a run.

    Args:
      config: the optimizer.
      steps: the length of the run.

    Yields:
      The problems found.
    """
    if config.warmup_steps > steps:
        yield Problem("optimizer.warmup_steps", config.warmup_steps, f"more than steps = {steps}")
    elif config.warmup_steps + (config.decay_steps or 0) > steps:
        reason = f"with warmup_steps = {config.warmup_steps} more than steps = {steps}"
        yield Problem("optimizer.decay_steps", config.decay_steps, reason)


def make_optimizer(
    config: Optimizer, steps: int, learning_rate: float | Float[Array, ""]
) -> optax.GradientTransformationExtraArgs:
    """Makes the optax chain: clip → rule → weight decay → −rate(step).

    Args:
      config: the optimizer; its `learning_rate` is not read.
      steps: the length of the run.
      learning_rate: the peak of the schedule; may be traced.

    Returns:
      A transformation whose state does not depend on the learning rate, so that one compiled
      program serves every one.
    """
    rate = rates(config, steps, learning_rate)
    if isinstance(config, PythonOptimizer):
        made = config.make("optimizer", learning_rate=rate, steps=steps)
        if not isinstance(made, optax.GradientTransformation):
            reason = f"must return an optax transformation, not {type(made).__name__}"
            raise refuse("optimizer.factory", reason, config.factory)
        return optax.with_extra_args_support(made)
    clip = config.clip_norm
    chain = optax.chain(
        optax.identity() if clip is None else optax.clip_by_global_norm(clip),
        _RULES[config.name](config),
        optax.add_decayed_weights(config.weight_decay, mask=_decayed),
        optax.scale_by_learning_rate(rate),
    )
    return optax.with_extra_args_support(chain)


def rates(
    config: Optimizer, steps: int, learning_rate: float | Float[Array, ""]
) -> Callable[[Any], Any]:
    """Makes the learning rate of each step.

    Args:
      config: the optimizer; its `learning_rate` is not read.
      steps: the length of the run.
      learning_rate: the peak of the schedule; may be traced.

    Returns:
      A function of the step: share · peak in the warm-up, then floor + share · (peak − floor), with
      the share that `schedule` gives and the floor `min_learning_rate`.
    """
    shape, floor = schedule(config, steps), config.min_learning_rate

    def rate(step: Any) -> Any:
        if not floor:
            return learning_rate * shape(step)
        after = floor + (learning_rate - floor) * shape(step)
        return jnp.where(step < config.warmup_steps, learning_rate * shape(step), after)

    return rate


def schedule(config: Optimizer, steps: int) -> optax.Schedule:
    """Makes the schedule: linear warm-up, then the decay.

    Args:
      config: the optimizer.
      steps: the length of the run.

    Returns:
      The learning rate at each step, from 0 on, as a share of its peak.

    >>> shape = schedule(OptimizerConfig(schedule="linear", warmup_steps=10), steps=110)
    >>> [round(float(shape(step)), 2) for step in (0, 4, 9, 10, 60, 110)]
    [0.1, 0.5, 1.0, 1.0, 0.5, 0.0]
    """
    warmup = config.warmup_steps
    left = max(1, steps - warmup)
    if isinstance(config.schedule, PythonSchedule):
        decay: Any = config.schedule.make("optimizer.schedule", steps=left)
        if not callable(decay):
            reason = f"must return a function of the step, not {type(decay).__name__}"
            raise refuse("optimizer.schedule.factory", reason, config.schedule.factory)
    else:
        decay = _SCHEDULES[config.schedule](left, config.decay_steps or max(1, steps // 5))
    after: Any = decay
    if not warmup:
        return after
    return optax.join_schedules([lambda step: (step + 1) / warmup, after], [warmup])


def _wsd(steps: int, decay_steps: int) -> optax.Schedule:
    decay = optax.linear_schedule(1.0, 0.0, decay_steps)
    stable = max(0, steps - decay_steps)
    return optax.join_schedules([optax.constant_schedule(1.0), decay], [stable])


_SCHEDULES: dict[str, Callable[[int, int], optax.Schedule]] = {
    "cosine": lambda steps, _: optax.cosine_decay_schedule(1.0, steps),
    "linear": lambda steps, _: optax.linear_schedule(1.0, 0.0, steps),
    "constant": lambda *_: optax.constant_schedule(1.0),
    "wsd": _wsd,
}


def _muon(config: OptimizerConfig) -> optax.GradientTransformation:
    return optax.contrib.muon(
        -1.0,  # the chain itself has decay and rate: here only the sign is taken back
        eps=config.epsilon,
        adam_b1=config.b1,
        adam_b2=config.b2,
        muon_weight_dimension_numbers=_matrices,
        consistent_rms=_RMS,
    )


_RULES: dict[str, Callable[[OptimizerConfig], optax.GradientTransformation]] = {
    "adamw": lambda c: optax.scale_by_adam(c.b1, c.b2, c.epsilon),
    "adam": lambda c: optax.scale_by_adam(c.b1, c.b2, c.epsilon),
    "sgd": lambda c: optax.trace(decay=c.b1),
    "muon": _muon,
}


def _matrices(params: Any) -> Any:
    """For each parameter, which of its axes Muon reduces over, or None for Adam."""
    leaves, structure = jax.tree.flatten_with_path(params)
    axes = zip(leaves, axis_names(params), strict=True)
    return structure.unflatten([_matrix(path, leaf, names) for (path, leaf), names in axes])


def _matrix(path: KeyPath[Any], leaf: Any, names: str) -> Any:
    letters = names.split()
    numbers = optax.contrib.MuonDimensionNumbers
    if not letters:  # of a model of a person's own
        return numbers() if leaf.ndim == 2 and "embedding" not in _path(path) else None
    places = tuple(range(-len(letters), 0))
    if {"v", "t", "n"}.intersection(letters) or len(letters) < 2 or "d" not in letters:
        return None
    return (
        numbers(places[:1], places[1:]) if letters[0] == "d" else numbers(places[:-1], places[-1:])
    )


def _decayed(params: Any) -> Any:
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: np.ndim(leaf) >= 2 and not _is_bias_or_scale(path), params
    )


_NOT_DECAYED = ("bias", "scale", "head_bias")


def _is_bias_or_scale(path: KeyPath[Any]) -> bool:
    return any(name.startswith(("b_", "learned")) or name in _NOT_DECAYED for name in _path(path))


def _path(path: KeyPath[Any]) -> list[str]:
    return jax.tree_util.keystr(path, simple=True, separator="/").split("/")
