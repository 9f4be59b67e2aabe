"""What the page's script draws: curves, differences, the rate search and health, as plain data."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from gelu_jax.compare.analysis import Analysis, Contrast, speed_ups_to_targets
from gelu_jax.compare.curves import (
    CurvePoints,
    accuracy_curve,
    band,
    final_loss,
    training_curve,
    validation_curve,
)
from gelu_jax.compare.ladder_analysis import LadderAnalysis, SpeedUp, Unit
from gelu_jax.report.verdict import is_default
from gelu_jax.runs.record import Run

MEASURES = {
    "validation": ("Validation loss", validation_curve),
    "training": ("Training loss", training_curve),
    "accuracy": ("Accuracy", accuracy_curve),
}
"""Key in the data → title and curve of each measure that the page can show."""


def plot_data(analysis: Analysis) -> Any:
    """Everything that `report.js` draws from.

    Args:
      analysis: the numbers.

    Returns:
      A dict of lists, dicts, strings and numbers: floats in six digits, None where not finite.
    """
    comparison = analysis.comparison
    return _plain({
        "unit": comparison.unit,
        "tokensPerStep": comparison.tokens_per_step,
        "decimals": analysis.decimals,
        "baseline": f" from {comparison.first.name}" if is_default(analysis) else "",
        "arms": [_arm(analysis, index) for index in range(len(analysis.arms))],
        "contrasts": [
            {
                "name": contrast.name,
                "arm": colour_of(analysis, contrast),
                "seeds": contrast.seeds,
                "differences": contrast.differences,
                "mean": contrast.mean,
                "interval": contrast.interval or (),
                "targets": [
                    {"target": target, "factor": factor, "interval": interval or ()}
                    for target, factor, interval in speed_ups_to_targets(comparison, contrast)
                    if factor > 0
                ],
            }
            for contrast in analysis.contrasts
            if contrast.seeds
        ],
    })  # fmt: skip


def colour_of(analysis: Analysis, contrast: Contrast) -> int:
    """The arm whose colour a contrast has: the first whose loss it adds.

    Args:
      analysis: the numbers.
      contrast: one of its contrasts.

    Returns:
      The place of the arm in the config.
    """
    weights = [contrast.weights.get(arm.arm.name, 0.0) for arm in analysis.arms]
    return weights.index(max(weights))


def _arm(analysis: Analysis, index: int) -> dict[str, Any]:
    arm, comparison = analysis.arms[index], analysis.comparison
    runs = comparison.runs_of(arm.arm.name)
    return {
        "name": arm.arm.name,
        "flopsPerStep": arm.arm.flops_per_step,
        "measures": {key: _measure(runs, curve) for key, (_, curve) in MEASURES.items()},
        "rates": sorted(arm.rates.items()),
        "tried": [
            (run.learning_rate, final_loss(run, comparison.metric), run.seed, run.status)
            for run in comparison.runs_of(arm.arm.name, "tuning")
        ],
        "chosen": arm.learning_rate,
        "health": _health(runs),
    }


def _measure(runs: Sequence[Run], curve: Callable[[Run], CurvePoints]) -> dict[str, Any]:
    middle = band([curve(run) for run in runs if run.status == "finished"])
    return {
        "band": middle and vars(middle),
        "runs": [{"seed": r.seed, "status": r.status, **curve(r)._asdict()} for r in runs],
    }


def _health(runs: Sequence[Run]) -> dict[str, Any]:
    """Name → steps and layers × evaluations, the mean over the seeds that finished."""
    finished = [run for run in runs if run.status == "finished"]
    names = finished[0].health if finished else {}
    found: dict[str, Any] = {}
    for name in names:
        layers = range(len(names[name][0]) if names[name] else 0)
        bands = [band([_layer(run, name, layer) for run in finished]) for layer in layers]
        kept = [middle for middle in bands if middle]
        if kept:
            found[name] = {"steps": kept[0].steps, "layers": [middle.mean for middle in kept]}
    return found


def _layer(run: Run, name: str, layer: int) -> CurvePoints:
    values = tuple(at[layer] for at in run.health[name])
    return CurvePoints(run.eval_steps, run.seconds, values)


def ladder_plot_data(analysis: LadderAnalysis) -> Any:
    """Everything that `ladder.js` draws from.

    Args:
      analysis: the numbers of a ladder.

    Returns:
      As `plot_data`; arms that have no law are left out.
    """
    return _plain({
        "unit": analysis.rungs[0].comparison.unit,
        "sizes": [f"{size:,}" for size in analysis.sizes],
        "arms": [
            {"name": name, "losses": losses.T, "mean": losses.mean(0)}
            for name, losses in zip(analysis.arms, analysis.losses.swapaxes(0, 1), strict=True)
        ],
        "costs": analysis.costs,
        "laws": {
            unit: [law_curve(analysis, unit, arm) for arm in range(len(laws))]
            for unit, laws in analysis.laws.items()
        },
        "speedUps": {
            unit: [None, *(_speed_up(each, analysis.costs[unit][0]) for each in speed_ups)]
            for unit, speed_ups in analysis.speed_ups.items()
        },
    })  # fmt: skip


def law_curve(analysis: LadderAnalysis, unit: Unit, arm: int) -> dict[str, np.ndarray]:
    """The law of an arm as points to draw.

    Args:
      analysis: the numbers of a ladder.
      unit: of the cost.
      arm: its place among those with a law.

    Returns:
      "cost" and "loss", from somewhat below its smallest run to somewhat above its largest.
    """
    costs = analysis.costs[unit][arm]
    cost = np.geomspace(costs[0] / 1.3, costs[-1] * 1.3, 60)
    return {"cost": cost, "loss": analysis.laws[unit][arm].loss(cost)}


def trend_line(speed_up: SpeedUp, costs: np.ndarray) -> np.ndarray:
    """The factor at each rung if it had the mean and slope that were estimated.

    Args:
      speed_up: of an arm.
      costs: (rungs,) of the first arm.

    Returns:
      (rungs,) factors.
    """
    decades = np.log10(costs) - np.log10(costs).mean()
    return speed_up.mean.value * 10 ** (speed_up.slope.value * decades)


def _speed_up(speed_up: SpeedUp, costs: np.ndarray) -> dict[str, Any]:
    at = [{"value": each.value, "interval": each.interval} for each in speed_up.at_rungs]
    return {"at": at, "line": trend_line(speed_up, costs)}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value
