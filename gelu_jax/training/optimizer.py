"""The optimizer: optax, from a config, with a learning rate that may be traced."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import jax
import optax
from jax.tree_util import KeyPath
from jaxtyping import Array, Float

from gelu_jax.errors import Problem, check
from gelu_jax.nn import checks


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW, Adam or SGD; warm-up, then a schedule down to zero; clipping by global norm.

    Attributes:
      name: the update rule.
      learning_rate: the peak of the schedule.
      schedule: how the learning rate falls from its peak to zero, or that it does not.
      warmup_steps: steps in which it rises linearly from zero to its peak.
      weight_decay: AdamW's; applies to kernels and embeddings, not to biases and norm scales.
      b1: decay of Adam's first moment, in [0, 1); the momentum of SGD.
      b2: decay of Adam's second moment, in [0, 1).
      epsilon: added to the root of Adam's second moment.
      clip_norm: the most that the global norm of the gradient may be; None does not clip.
    """

    name: Literal["adamw", "adam", "sgd"] = "adamw"
    learning_rate: float = 1e-3
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_steps: int = 0
    weight_decay: float = 0.0
    b1: float = 0.9
    b2: float = 0.999
    epsilon: float = 1e-8
    clip_norm: float | None = 1.0

    def __post_init__(self):
        check(self._problems())

    def _problems(self) -> Iterator[Problem]:
        yield from checks.one_of(tuple(_RULES), name=self.name)
        yield from checks.one_of(tuple(_SCHEDULES), schedule=self.schedule)
        yield from checks.positive(
            learning_rate=self.learning_rate, epsilon=self.epsilon, clip_norm=self.clip_norm
        )
        yield from checks.not_negative(
            warmup_steps=self.warmup_steps, weight_decay=self.weight_decay
        )
        yield from checks.below_one(b1=self.b1, b2=self.b2)
        if self.weight_decay and self.name != "adamw":
            yield Problem("weight_decay", self.weight_decay, "only adamw has weight decay")


def make_optimizer(
    config: OptimizerConfig, steps: int, learning_rate: float | Float[Array, ""]
) -> optax.GradientTransformation:
    """Makes the optax chain: clip → rule → weight decay → −learning_rate·schedule(step).

    Args:
      config: the optimizer; its `learning_rate` is not read.
      steps: the length of the run.
      learning_rate: the peak of the schedule; may be traced.

    Returns:
      A transformation whose state does not depend on the learning rate, so that one compiled
      program serves every one.
    """
    shape = schedule(config, steps)
    clip = config.clip_norm
    return optax.chain(
        optax.identity() if clip is None else optax.clip_by_global_norm(clip),
        _RULES[config.name](config),
        optax.add_decayed_weights(config.weight_decay, mask=_decayed),
        optax.scale_by_learning_rate(lambda step: learning_rate * shape(step)),
    )


def schedule(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """Makes the schedule: linear warm-up, then the decay.

    Args:
      config: the optimizer.
      steps: the length of the run.

    Returns:
      The learning rate at each step as a share of its peak.

    >>> shape = schedule(OptimizerConfig(schedule="linear", warmup_steps=10), steps=110)
    >>> [round(float(shape(step)), 2) for step in (0, 5, 10, 60, 110)]
    [0.0, 0.5, 1.0, 0.5, 0.0]
    """
    warmup = config.warmup_steps
    decay = _SCHEDULES[config.schedule](max(1, steps - warmup))
    if not warmup:
        return decay
    return optax.join_schedules([optax.linear_schedule(0.0, 1.0, warmup), decay], [warmup])


_RULES = {
    "adamw": lambda c: optax.scale_by_adam(c.b1, c.b2, c.epsilon),
    "adam": lambda c: optax.scale_by_adam(c.b1, c.b2, c.epsilon),
    "sgd": lambda c: optax.trace(decay=c.b1),
}

_SCHEDULES = {
    "cosine": lambda steps: optax.cosine_decay_schedule(1.0, steps),
    "linear": lambda steps: optax.linear_schedule(1.0, 0.0, steps),
    "constant": lambda steps: optax.constant_schedule(1.0),
}


def _decayed(params: Any) -> Any:
    return jax.tree_util.tree_map_with_path(lambda path, _: not _is_bias_or_scale(path), params)


def _is_bias_or_scale(path: KeyPath[Any]) -> bool:
    names = jax.tree_util.keystr(path, simple=True, separator="/").split("/")
    return any(name.startswith("b_") or name in ("bias", "scale", "head_bias") for name in names)
