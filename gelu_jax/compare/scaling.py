"""Laws of loss and compute, and how much compute one arm needs for what another reaches.

    L(C) = L∞ + A·C^−α                                  the law of an arm, fitted to its rungs
    F_k  = L₁⁻¹(L₁(C₁ₖ) + dₖ) / Cₖ                      effective speed-up of an arm at rung k

dₖ is the arm's mean difference from the first arm at rung k, Cₖ the compute of its runs, and the
first arm's law L₁ says how much of its compute is worth that difference. So the noise that arms
share at a seed drops out, and an arm that equals the first one has a speed-up of exactly 1.

Intervals leave out one seed at a time, at all rungs together, and treat the pseudo-values as
differences of paired seeds (see `family`).

Sources: the law is that of Kaplan et al., "Scaling Laws for Neural Language Models", 2020, with
the L∞ of Henighan et al., "Scaling Laws for Autoregressive Generative Modeling", 2020, eq. 1.1; the
jackknife, Tukey, "Bias and Confidence in Not-Quite Large Samples", 1958.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from gelu_jax.compare.statistics import Floats

_EXPONENTS = (0.01, 3.0)
_GRID, _ZOOM, _ROUNDS = 61, 21, 5  # points of the first search for a minimum, and of those inside


class Law(NamedTuple):
    """L(C) = floor + scale · (C / unit)^−exponent.

    Attributes:
      floor: L∞, the loss that no compute goes below.
      scale: A in units of C^α, the part above it at C = unit.
      exponent: α.
      unit: the compute that C is measured in.
    """

    floor: float
    scale: float
    exponent: float
    unit: float

    def loss(self, cost: Floats) -> Floats:
        """The loss at some compute.

        Args:
          cost: (...) C.

        Returns:
          (...) L.
        """
        return self.floor + self.scale * (np.asarray(cost) / self.unit) ** -self.exponent

    def cost(self, loss: Floats) -> Floats:
        """The compute that reaches a loss, the inverse of `loss`.

        Args:
          loss: (...) L.

        Returns:
          (...) C; infinite for a loss of L∞ or less.
        """
        above = np.maximum(np.asarray(loss) - self.floor, 0.0)
        if self.scale <= 0:
            return np.full(above.shape, math.nan)
        with np.errstate(divide="ignore"):
            return self.unit * (above / self.scale) ** (-1 / self.exponent)


def fit_laws(costs: Floats, losses: Floats, *, shared: bool) -> tuple[Law, ...]:
    """Fits a law to each arm by least squares of the mean losses.

    As every seed has the same compute at a rung, that is the fit to all seeds together. For a given
    α, floor and scale are a linear regression, and α is searched for on a grid, which has no local
    minima to fall into.

    Args:
      costs: (arms, rungs) compute of a run.
      losses: (arms, rungs) mean final loss.
      shared: whether the arms have one L∞, which is then searched for as well.

    Returns:
      A law for each arm: 0 ≤ L∞, and α between 0.01 and 3.

    >>> cost = np.array([[1e12, 4e12, 16e12, 64e12]])
    >>> (law,) = fit_laws(cost, 1.2 + 0.9 * (cost / 1e12) ** -0.3, shared=False)
    >>> round(law.floor, 3), round(law.exponent, 3), f"{float(law.cost(np.array(1.5))):.2e}"
    (1.2, 0.3, '3.89e+13')
    """
    unit = float(np.exp(np.log(costs).mean()))
    floor = _shared_floor(costs / unit, losses) if shared else None
    floors, scales, exponents, _ = _fit(costs / unit, losses, floor)
    return tuple(
        Law(float(floor), float(scale), float(exponent), unit)
        for floor, scale, exponent in zip(floors, scales, exponents, strict=True)
    )


def _fit(x: Floats, y: Floats, floor: Floats | None) -> tuple[Floats, Floats, Floats, Floats]:
    """Floor, scale, exponent and squared error of each (..., rungs), some floor being given."""
    grid = np.broadcast_to(np.geomspace(*_EXPONENTS, _GRID), (*y.shape[:-1], _GRID))
    for _ in range(_ROUNDS - 1):
        errors = _regression(x, y, floor, grid)[2]
        at, last = errors.argmin(-1)[..., None], grid.shape[-1] - 1
        low = np.take_along_axis(grid, np.maximum(at - 1, 0), -1)
        high = np.take_along_axis(grid, np.minimum(at + 1, last), -1)
        grid = low * (high / low) ** np.linspace(0, 1, _ZOOM)
    found = (*_regression(x, y, floor, grid), grid)
    at = found[2].argmin(-1)[..., None]
    floors, scales, errors, exponents = (np.take_along_axis(f, at, -1)[..., 0] for f in found)
    return floors, scales, exponents, errors


def _regression(
    x: Floats, y: Floats, floor: Floats | None, exponents: Floats
) -> tuple[Floats, Floats, Floats]:
    """Floor and scale, both ≥ 0, of y ≈ floor + scale·x^−exponent, and its squared error."""
    basis, y = x[..., None, :] ** -exponents[..., None], y[..., None, :]
    if floor is None:
        centred = basis - basis.mean(-1, keepdims=True)
        spread = (centred**2).sum(-1)
        scale = np.maximum((centred * y).sum(-1) / np.where(spread > 0, spread, 1.0), 0.0)
        floors = np.maximum(y.mean(-1) - scale * basis.mean(-1), 0.0)
    else:
        floors = np.broadcast_to(floor[..., None], exponents.shape)
    above = y - floors[..., None]
    scale = np.maximum((above * basis).sum(-1) / (basis**2).sum(-1), 0.0)
    return floors, scale, ((above - scale[..., None] * basis) ** 2).sum(-1)


def _shared_floor(x: Floats, y: Floats) -> Floats:
    """The floor with the least squared error over all arms, once for each arm."""
    low, high, best = 0.0, float(y.min()), 0.0
    for _ in range(_ROUNDS):
        floors = np.linspace(low, high, _ZOOM)
        arms = np.broadcast_to(y, (len(floors), *y.shape))
        *_, errors = _fit(x[None], arms, np.broadcast_to(floors[:, None], arms.shape[:-1]))
        at = int(errors.sum(1).argmin())
        best = float(floors[at])
        low, high = float(floors[max(at - 1, 0)]), float(floors[min(at + 1, len(floors) - 1)])
    return np.full(len(y), best)


def held_out_errors(costs: Floats, losses: Floats, *, shared: bool) -> Floats:
    """How far the laws of the other rungs are from each rung.

    Args:
      costs: (arms, rungs), as for `fit_laws`.
      losses: (arms, rungs).
      shared: as for `fit_laws`.

    Returns:
      (arms, rungs) predicted − measured loss, the last column of the largest rung: predicted from
      the smaller ones.
    """
    columns: list[Floats] = []
    for rung in range(costs.shape[1]):
        kept = np.arange(costs.shape[1]) != rung
        laws = fit_laws(costs[:, kept], losses[:, kept], shared=shared)
        predicted = [law.loss(cost) for law, cost in zip(laws, costs[:, rung], strict=True)]
        columns.append(np.array(predicted) - losses[:, rung])
    return np.stack(columns, 1)


def shares_floor(costs: Floats, losses: Floats) -> bool:
    """Whether one L∞ for all arms predicts rungs that are left out better than one for each.

    Args:
      costs: (arms, rungs), as for `fit_laws`.
      losses: (arms, rungs).

    Returns:
      True if it does, and where fewer than five rungs leave it open.
    """
    if len(costs) < 2 or costs.shape[1] < 5:
        return len(costs) > 1
    one, each = (
        float((held_out_errors(costs, losses, shared=shared) ** 2).sum())
        for shared in (True, False)
    )
    return one <= each


def log_speed_ups(costs: Floats, losses: Floats, law: Law) -> Floats:
    """log₁₀ of the effective speed-up F_k of every arm but the first, at each rung.

    Args:
      costs: (arms, rungs), as for `fit_laws`.
      losses: (arms, rungs).
      law: of the first arm.

    Returns:
      (arms − 1, rungs); infinite where a loss is below the first arm's L∞.
    """
    reached = law.loss(costs[0]) + losses[1:] - losses[0]
    with np.errstate(invalid="ignore"):
        return np.log10(law.cost(reached)) - np.log10(costs[1:])


def mean_and_slope(costs: Floats, values: Floats) -> Floats:
    """The mean over rungs, and the slope per decade of compute by least squares.

    Args:
      costs: (rungs,) compute of the first arm.
      values: (..., rungs).

    Returns:
      (..., 2).
    """
    x = np.log10(costs) - np.log10(costs).mean()
    return np.stack([values.mean(-1), (values * x).sum(-1) / (x**2).sum()], -1)


def jackknife(statistic: Callable[[Floats], Floats], samples: Floats) -> tuple[Floats, Floats]:
    """A statistic of the mean over seeds, and what each seed contributes to it.

        vₛ = θ(all) + (n − 1)·(mean over r of θ(without r) − θ(without s))

    Tukey's pseudo-values, centred on θ(all): for a statistic that is linear in the losses they are
    its values at each seed.

    Args:
      statistic: (...) mean losses → (m,).
      samples: (n, ...) losses, seeds first.

    Returns:
      θ, (m,), and v, (n, m).

    >>> value, seeds = jackknife(lambda mean: 2 * mean, np.array([[1.0], [2.0], [6.0]]))
    >>> value.tolist(), seeds.round(9).tolist()
    ([6.0], [[2.0], [4.0], [12.0]])
    """
    count, value = len(samples), statistic(samples.mean(0))
    if count < 2:
        return value, np.full((count, len(value)), math.nan)
    total = samples.sum(0)
    without = np.stack([statistic((total - sample) / (count - 1)) for sample in samples])
    with np.errstate(invalid="ignore"):
        return value, value + (count - 1) * (without.mean(0) - without)
