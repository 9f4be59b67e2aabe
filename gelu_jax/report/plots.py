"""What the page's script draws: curves, differences, the rate search and health, as plain data."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from gelu_jax.compare.analysis import Analysis
from gelu_jax.compare.curves import (
    CurvePoints,
    accuracy_curve,
    band,
    final_loss,
    training_curve,
    validation_curve,
)
from gelu_jax.compare.records import Run

MEASURES = {
    "validation": ("Validation loss", validation_curve),
    "training": ("Training loss", training_curve),
    "accuracy": ("Accuracy", accuracy_curve),
}
"""Key in the data → title and curve of each measure that the page can show."""


def plot_data(analysis: Analysis) -> dict[str, Any]:
    """Everything that `report.js` draws from.

    Args:
      analysis: the numbers.

    Returns:
      Lists, dicts, strings and numbers; numbers in six digits, None where not finite.
    """
    comparison = analysis.comparison
    return {
        "unit": comparison.unit,
        "tokensPerStep": comparison.tokens_per_step,
        "decimals": analysis.decimals,
        "first": comparison.first.name,
        "arms": [_arm(analysis, index) for index in range(len(analysis.arms))],
        "contrasts": [
            {
                "arm": index,
                "seeds": contrast.seeds,
                "differences": _numbers(contrast.differences),
                "mean": _number(contrast.mean),
                "interval": _numbers(contrast.interval or ()),
            }
            for index, contrast in enumerate(analysis.contrasts, start=1)
            if contrast.seeds
        ],
    }


def _arm(analysis: Analysis, index: int) -> dict[str, Any]:
    arm, comparison = analysis.arms[index], analysis.comparison
    runs = comparison.runs_of(arm.arm.name)
    return {
        "name": arm.arm.name,
        "flopsPerStep": _number(arm.arm.flops_per_step),
        "measures": {key: _measure(runs, curve) for key, (_, curve) in MEASURES.items()},
        "rates": [[_number(rate), _number(loss)] for rate, loss in sorted(arm.rates.items())],
        "tried": [
            [run.learning_rate, _number(final_loss(run, comparison.metric)), run.seed, run.status]
            for run in comparison.runs_of(arm.arm.name, "tuning")
        ],
        "chosen": _number(arm.learning_rate),
        "health": _health(runs),
    }


def _measure(runs: Sequence[Run], curve: Callable[[Run], CurvePoints]) -> dict[str, Any]:
    middle = band([curve(run) for run in runs if run.status == "finished"])
    return {
        "band": middle
        and {
            "steps": middle.steps.tolist(),
            "seconds": _numbers(middle.seconds),
            "mean": _numbers(middle.mean),
            "sd": _numbers(middle.sd),
        },
        "runs": [{"seed": r.seed, "status": r.status, **_curve(curve(r))} for r in runs],
    }


def _curve(points: CurvePoints) -> dict[str, Any]:
    return {
        "steps": points.steps,
        "seconds": _numbers(points.seconds),
        "values": _numbers(points.values),
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
            means = [_numbers(middle.mean) for middle in kept]
            found[name] = {"steps": kept[0].steps.tolist(), "layers": means}
    return found


def _layer(run: Run, name: str, layer: int) -> CurvePoints:
    values = tuple(at[layer] for at in run.health[name])
    return CurvePoints(run.eval_steps, run.seconds, values)


def _numbers(values: Iterable[float]) -> list[float | None]:
    return [_number(value) for value in values]


def _number(value: float) -> float | None:
    return float(f"{value:.6g}") if math.isfinite(value) else None
