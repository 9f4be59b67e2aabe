"""The verdict on a ladder in words: how much compute each arm needs, and what scale changes."""

import math
from collections.abc import Iterator

import numpy as np

from gelu_jax.compare.climb import short
from gelu_jax.compare.ladder_analysis import Estimate, LadderAnalysis, SpeedUp
from gelu_jax.compare.statistics import fewest_pairs
from gelu_jax.report.verdict import Verdict
from gelu_jax.report.wording import listed, number

_TRENDS = {
    "grows": ", and the factor grows with scale",
    "shrinks": ", and the factor shrinks with scale",
    "stays": ", and the factor does not change with scale",
    "unknown": "; whether the factor changes with scale cannot be told",
}


def ladder_verdict(analysis: LadderAnalysis) -> Verdict:
    """Puts the analysis of a ladder into words. No conclusion is drawn from a smoke test.

    Args:
      analysis: the numbers.

    Returns:
      The sentences; `str` gives them one per line.
    """
    return Verdict(
        headline=_headline(analysis),
        sentences=tuple(_sentences(analysis)),
        order="",
        notes=tuple(_notes(analysis)),
    )


def _is_smoke_test(analysis: LadderAnalysis) -> bool:
    return analysis.rungs[0].comparison.protocol == "smoke test"


def _headline(analysis: LadderAnalysis) -> str:
    first, speed_ups = analysis.arms[0], analysis.speed_ups["FLOPs"]
    if _is_smoke_test(analysis):
        return "Smoke test: no conclusion is drawn."
    if not speed_ups:
        return f"{first}'s loss falls as C^−{analysis.laws['FLOPs'][0].exponent:.2f}."
    less = [s.arm for s in speed_ups if s.mean.found and s.mean.value > 1]
    more = [s.arm for s in speed_ups if s.mean.found and s.mean.value < 1]
    unclear = [s.arm for s in speed_ups if not s.mean.found]
    parts = [
        f"{listed(names)} {'needs' if len(names) == 1 else 'need'} significantly {side} compute "
        f"than {first} for the same loss"
        for names, side in ((less, "less"), (more, "more"))
        if names
    ]
    if unclear:
        lead = "" if parts else "Inconclusive: "
        verb = "does" if len(unclear) == 1 else "do"
        parts.append(f"{lead}{listed(unclear)} {verb} not differ significantly from {first}")
    return "; ".join(parts) + "."


def _sentences(analysis: LadderAnalysis) -> Iterator[str]:
    if _is_smoke_test(analysis):
        yield "This only shows that everything runs. For a verdict, run the full protocol."
    for speed_up in analysis.speed_ups["FLOPs"]:
        yield f"{speed_up.arm}: {_needs(analysis, speed_up)}."
    if analysis.held_out is not None:
        yield _prediction(analysis)


def _needs(analysis: LadderAnalysis, speed_up: SpeedUp) -> str:
    """The factor and its slope, both turned over where the arm needs more compute."""
    first, mean, slope = analysis.arms[0], speed_up.mean, speed_up.slope
    if not math.isfinite(mean.value):
        return f"its loss is below what the law of {first} can reach, so no factor can be told"
    if _is_smoke_test(analysis):
        return f"{mean.value:.2f} × the compute of {speed_up.arm} is what {first} needs"
    trend = speed_up.trend
    if mean.found and mean.value < 1:
        mean, slope = _inverse(mean), _negative(slope)
        trend = {"grows": "shrinks", "shrinks": "grows"}.get(trend, trend)
        needs = f"needs {mean.value:.2f} × more compute than {first}{_bounds(mean)}"
    elif mean.found:
        needs = f"needs {mean.value:.2f} × less compute than {first}{_bounds(mean)}"
    else:
        needs = f"the same compute as {first}, as far as can be told, by a factor of "
        needs += f"{mean.value:.2f}{_bounds(mean)}"
    rate = number(slope.value, "z.3f")
    return f"{needs}{_TRENDS[trend]}: slope {rate}{_bounds(slope, 'z.3f')} per decade"


def _inverse(factor: Estimate) -> Estimate:
    bounds = factor.interval and (1 / factor.interval[1], 1 / factor.interval[0])
    return Estimate(1 / factor.value, bounds, factor.p_adjusted, factor.found)


def _negative(slope: Estimate) -> Estimate:
    bounds = slope.interval and (-slope.interval[1], -slope.interval[0])
    return Estimate(-slope.value, bounds, slope.p_adjusted, slope.found)


def _bounds(estimate: Estimate, form: str = ".2f") -> str:
    if estimate.interval is None:
        return ""
    low, high = (number(bound, form) for bound in estimate.interval)
    return f" ({low} to {high})"


def _prediction(analysis: LadderAnalysis) -> str:
    errors = np.asarray(analysis.held_out)[:, -1]
    share = np.abs(errors / analysis.losses.mean(0)[:, -1]).max()
    unit = analysis.rungs[0].comparison.unit
    return (
        f"The laws of the smaller sizes predict the losses at {short(analysis.sizes[-1])} "
        f"parameters with an error of at most {np.abs(errors).max():.3f} {unit} ({share:.1%})."
    ).replace("%)", " %)")


def _notes(analysis: LadderAnalysis) -> Iterator[str]:
    fewest, seeds = fewest_pairs(analysis.looks[-1].level), len(analysis.seeds)
    if seeds < fewest and not _is_smoke_test(analysis):
        yield f"{seeds} paired seeds can never conclude: it takes {fewest}."
    for name in analysis.diverged:
        yield f"{name}: a run diverged, so it has no law here."
    for rung in analysis.rungs:
        missing = {s for arm in rung.arms for s in arm.interrupted}
        if missing:
            yield f"{rung.comparison.name}: {len(missing)} seeds are not finished."
        for arm in rung.arms:
            if arm.at_edge:
                yield (
                    f"{arm.arm.name} at {short(rung.comparison.first.parameters)} parameters: its "
                    f"best learning rate, {arm.learning_rate:g}, is at the edge of those tried."
                )
