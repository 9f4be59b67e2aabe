"""A ladder of sizes: the same comparison at several model sizes, its rungs.

    N_k             parameters of the first arm, from `smallest` to `largest` in equal ratios
    T_k = r·N_k     tokens, r = `tokens_per_parameter`
    B_k = B_1·(T_k / T_1)^β     batch size, β = `batch_exponent`
    log η = aᵢ + b·log N        peak learning rate of arm i, see `rate_law`

A rung changes width and depth together: the width over the depth, the entries of a head, and the
hidden width over the width stay as near to those of the config as whole numbers allow.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any, NamedTuple, cast

import numpy as np

from gelu_jax.compare.matching import parameters
from gelu_jax.errors import ABSENT, Problem, check
from gelu_jax.nn import checks
from gelu_jax.nn.transformer import TransformerConfig
from gelu_jax.training.config import from_dict, to_dict
from gelu_jax.training.data import load_data
from gelu_jax.training.trainer import TrainConfig

SCALED = ("d_model", "num_layers", "num_heads", "num_kv_heads", "head_dim", "d_ff")
"""The fields of a model that a rung sets, wherever in the model they are."""

_WIDTH_STEP = 8  # widths are multiples of it, and batches if the first one is


@dataclass(frozen=True)
class LadderConfig:
    """The sizes of a ladder, how long each is trained, and which of them are tuned.

    Attributes:
      sizes: how many rungs from `smallest` to `largest`; None where `rungs` names them.
      smallest: parameters of the first rung, about.
      largest: parameters of the last rung, about.
      rungs: instead of these three, the changes of each rung from the smallest to the largest, as
        dotted path → value; `model.d_model` and the like are set in every part that has them.
      tokens_per_parameter: tokens of training per parameter of the first arm; with 20, compute is
        spent about optimally (Hoffmann et al., "Training Compute-Optimal Large Language Models",
        2022), and more is common.
      batch_exponent: the batch grows as tokens to this power, from `run.batch_size` at the first
        rung; 0 keeps it. About ½ is where larger batches stop to pay (Zhang et al., "How Does
        Critical Batch Size Scale in Pre-training?", 2024: 0.47).
      tuned_rungs: on so many of the smallest rungs every arm tries all learning rates; `rate_law`
        carries them up to the others, and the last rung tries its rate and both neighbours.

    Raises:
      ConfigError: a field has a wrong value.
    """

    sizes: int | None = None
    smallest: float | None = None
    largest: float | None = None
    rungs: tuple[Mapping[str, Any], ...] = ()
    tokens_per_parameter: float = 20.0
    batch_exponent: float = 0.5
    tuned_rungs: int = 2

    def __post_init__(self):
        check(self._problems())

    def __len__(self) -> int:
        return self.sizes or len(self.rungs)

    def _problems(self) -> Iterator[Problem]:
        yield from checks.positive(
            sizes=self.sizes,
            smallest=self.smallest,
            largest=self.largest,
            tokens_per_parameter=self.tokens_per_parameter,
            tuned_rungs=self.tuned_rungs,
        )
        yield from checks.not_negative(batch_exponent=self.batch_exponent)
        given = [value is not None for value in (self.sizes, self.smallest, self.largest)]
        if any(given) == bool(self.rungs) or any(given) != all(given):
            reason = "give either sizes, smallest and largest, or rungs"
            yield Problem("rungs", list(self.rungs), reason)
        elif len(self) < 3:
            yield Problem("sizes", len(self), "a ladder has at least 3 rungs")
        elif self.smallest and self.largest and self.smallest >= self.largest:
            yield Problem("smallest", self.smallest, f"must be below largest = {self.largest}")


class Rung(NamedTuple):
    """One size of a ladder.

    Attributes:
      run: the config of one run, before any arm's changes.
      parameters: of the first arm.
      tokens: that a run trains on.
    """

    run: TrainConfig
    parameters: int
    tokens: int


def rungs(ladder: LadderConfig, run: TrainConfig, first: Mapping[str, Any]) -> tuple[Rung, ...]:
    """The runs of a ladder, from the smallest to the largest.

    Args:
      ladder: its sizes.
      run: what is scaled. Its batch size is that of the first rung, its steps, evaluations and
        warm-up give the share of the steps between evaluations and in the warm-up.
      first: the changes of the first arm, whose parameters are counted.

    Returns:
      One for each size.

    Raises:
      ConfigError: a size cannot be made, or its changes do not fit the config.
    """
    changes = ladder.rungs or [
        _sized(run, first, size)
        for size in np.geomspace(ladder.smallest or 1, ladder.largest or 1, len(ladder)).tolist()
    ]
    found: list[Rung] = []
    for change in changes:
        sized = scaled(run, change)
        count = parameters(scaled(sized, first))
        tokens = ladder.tokens_per_parameter * count
        growth = (tokens / (found[0].tokens if found else tokens)) ** ladder.batch_exponent
        found.append(_timed(sized, change, count, tokens, growth))
    sizes = [rung.parameters for rung in found]
    if sorted(set(sizes)) != sizes:
        check([Problem("ladder", sizes, "the rungs must grow in parameters; take fewer sizes")])
    return tuple(found)


def _timed(
    run: TrainConfig, change: Mapping[str, Any], count: int, tokens: float, growth: float
) -> Rung:
    """A rung with its batch, steps, evaluations and warm-up; what its changes name stays."""
    batch = run.batch_size
    if "batch_size" not in change:
        part = math.gcd(batch, _WIDTH_STEP)  # what divides the first batch divides them all
        batch = max(1, round(batch * growth / part)) * part
    per_step = load_data(run.data, batch).tokens_per_step
    evaluations = run.steps // run.eval_every
    every = max(1, round(tokens / per_step / evaluations))
    steps = run.steps if "steps" in change else every * evaluations
    warmup = round(run.optimizer.warmup_steps * steps / run.steps)
    sized = replace(
        run,
        batch_size=batch,
        steps=steps,
        eval_every=steps // evaluations,
        checkpoint_every=None,
        optimizer=replace(run.optimizer, warmup_steps=warmup),
    )
    return Rung(sized, count, steps * per_step)


def scaled(run: TrainConfig, changes: Mapping[str, Any]) -> TrainConfig:
    """A run with some fields changed; a field that parts have themselves is set in all of them.

    Args:
      run: the config to change.
      changes: dotted path → value; `model.d_model` sets every `d_model` below `model`.

    Returns:
      A new config.

    Raises:
      ConfigError: there is no such field, or its value is wrong.
    """
    plain = to_dict(run)
    for path, value in changes.items():
        *sections, last = path.split(".")
        section: Any = plain
        for key in sections:
            section = section.get(key) if isinstance(section, dict) else None
        if not _set(section, last, to_dict(value)):
            check([Problem(path, value, "there is no such field to scale")])
    return from_dict(plain, TrainConfig)


def _set(section: Any, name: str, value: Any) -> bool:
    """Sets a field of a section, or of every part below it that has one."""
    if not isinstance(section, dict):
        return False
    fields = cast(dict[str, Any], section)
    if name in fields:
        fields[name] = value
        return True
    return any([_set(part, name, value) for part in fields.values()])


def _sized(run: TrainConfig, first: Mapping[str, Any], size: float) -> dict[str, Any]:
    """The changes that give the first arm about so many parameters, at about the config's shape.

    Of widths at neighbouring depths the one that is least off, where being off in width over depth
    counts a quarter: the shape hardly matters within a factor of two (Kaplan et al., 2020, §3.1).
    """
    if not isinstance(run.model, TransformerConfig):
        reason = "only a transformer is scaled by itself; write the rungs out: rungs: [...]"
        check([Problem("ladder.sizes", ABSENT, reason)])
    model = cast(TransformerConfig, run.model)

    @cache
    def count(width: int, depth: int) -> int:
        return parameters(scaled(scaled(run, _shape(model, width, depth)), first))

    aspect = model.block.attention.d_model / model.num_layers

    def off(shape: tuple[int, int]) -> float:
        stretched = abs(math.log(shape[0] / shape[1] / aspect))
        return abs(math.log(count(*shape) / size)) + stretched / 4

    shapes = [
        (_width(partial(count, depth=depth), size), depth) for depth in _depths(aspect, size, count)
    ]
    return _shape(model, *min(shapes, key=off))


def _depths(aspect: float, size: float, count: Callable[[int, int], int]) -> range:
    """The depths next to the one at which the aspect would be that of the config."""

    def proportional(width: int) -> int:
        return count(width, max(1, round(width / aspect)))

    width = _width(proportional, size)
    depth = max(1, round(width / aspect))
    return range(max(1, depth - 1), depth + 2)


def _width(count: Callable[[int], int], size: float) -> int:
    """The multiple of `_WIDTH_STEP` whose count is nearest to a size, in ratio; by bisection."""
    low, high = 1, 2
    while count(high * _WIDTH_STEP) < size:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if count(middle * _WIDTH_STEP) < size else (low, middle)
    near = min((low, high), key=lambda n: abs(math.log(count(n * _WIDTH_STEP) / size)))
    return near * _WIDTH_STEP


def _shape(model: TransformerConfig, width: int, depth: int) -> dict[str, Any]:
    """Width and depth, with heads and hidden width in the proportions of a model."""
    attention, ffn = model.block.attention, model.block.feed_forward
    group = attention.num_heads // (attention.num_kv_heads or attention.num_heads)
    own = attention.head_dim is not None  # then heads need not divide the width
    heads = [n for n in range(1, width + 1) if own or (width % n == 0 and width // n % 2 == 0)]
    heads = [n for n in heads if n % group == 0] or heads[:1]
    wanted = attention.num_heads * width / attention.d_model
    num_heads = min(heads, key=lambda n: abs(math.log(n / wanted)))
    hidden = max(1, round(width * ffn.d_ff / ffn.d_model / _WIDTH_STEP)) * _WIDTH_STEP
    shape = {
        "model.d_model": width,
        "model.num_layers": depth,
        "model.num_heads": num_heads,
        "model.d_ff": hidden,
    }
    if attention.num_kv_heads is not None:
        shape["model.num_kv_heads"] = max(1, num_heads // group)
    return shape


class RateLaw(NamedTuple):
    """The learning rate of each arm as a power of the size: log η = aᵢ + b·log N.

    Attributes:
      intercepts: arm → a.
      exponent: b, which all arms share.
    """

    intercepts: Mapping[str, float]
    exponent: float

    def rate(self, arm: str, size: float) -> float:
        """The rate of an arm at a size.

        Args:
          arm: its name.
          size: parameters.

        Returns:
          The rate in two digits, so that it has the same name wherever it was computed.
        """
        log = self.intercepts[arm] + self.exponent * math.log(size)
        return float(f"{math.exp(log):.2g}")


def rate_law(sizes: Mapping[int, Mapping[str, float]]) -> RateLaw:
    """Fits the law of the learning rates to the best rates of the rungs that were tuned.

    Least squares of log η. One exponent for all arms, because it is known from few sizes, each with
    an error of a part of the grid's ratio; the factor is each arm's own.

    Source: the form is that of Bi et al., "DeepSeek LLM", 2024, eq. 1, in parameters.

    Args:
      sizes: parameters → arm → best rate, as `lowest_point` has it.

    Returns:
      The law; with one size, its rates at every size.

    >>> law = rate_law({1000: {"a": 4e-3, "b": 8e-3}, 4000: {"a": 2e-3, "b": 4e-3}})
    >>> round(law.exponent, 6), law.rate("a", 16_000), law.rate("b", 16_000)
    (-0.5, 0.001, 0.002)
    """
    x = np.log(np.array([float(size) for size in sizes]))
    arms = list(next(iter(sizes.values())))
    y = np.log(np.array([[rates[arm] for arm in arms] for rates in sizes.values()]))
    centred = x - x.mean()
    spread = float((centred**2).sum())
    exponent = float(centred @ y.mean(1) / spread) if spread > 0 else 0.0
    intercepts = y.mean(0) - exponent * x.mean()
    return RateLaw(dict(zip(arms, map(float, intercepts), strict=True)), exponent)
