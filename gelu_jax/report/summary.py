"""What a comparison found, as one JSON document for scripts."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic_core import to_json

from gelu_jax.compare.analysis import Analysis, Contrast
from gelu_jax.compare.ladder_analysis import LadderAnalysis
from gelu_jax.report.ladder_verdict import ladder_verdict
from gelu_jax.report.verdict import verdict


def summary(analysis: Analysis, files: Sequence[Path]) -> str:
    """The verdict and every number behind it; the runs themselves are in `results.json`.

    `arms` has an `ArmSummary` for each arm, `contrasts` a `Contrast` for each of the config's
    contrasts or each arm but the first, `told_apart` the pairs [lower, higher] whose losses differ
    significantly, and `looks` the numbers of seeds at which that was asked, with the level spent.

    Args:
      analysis: the numbers.
      files: the paths of the report's files.

    Returns:
      JSON, in which "NaN", "Infinity" and "-Infinity" are strings, because JSON has no such
      numbers.
    """
    comparison = analysis.comparison
    found = {
        "name": comparison.name,
        "protocol": comparison.protocol,
        "metric": comparison.metric,
        "unit": comparison.unit,
        "verdict": verdict(analysis),
        "arms": [{**vars(arm), "mean": arm.mean, "sd": arm.sd} for arm in analysis.arms],
        "contrasts": [_contrast(contrast) for contrast in analysis.contrasts],
        "told_apart": sorted(analysis.significant),
        "looks": [look._asdict() for look in analysis.looks],
        "files": files,
    }
    return to_json(found, indent=2, inf_nan_mode="strings").decode()


def _contrast(contrast: Contrast) -> dict[str, Any]:
    arm, baseline = contrast.pair or (None, None)
    return {"arm": arm, "baseline": baseline, **vars(contrast)}


def ladder_summary(name: str, analysis: LadderAnalysis, files: Sequence[Path]) -> str:
    """The verdict on a ladder and every number behind it, as one JSON document.

    `sizes` are the parameters of the first arm, `laws` the law of each arm, and `speed_ups` those
    of the other arms, in each unit.

    Args:
      name: of its directory.
      analysis: the numbers.
      files: the paths of the report's files.

    Returns:
      JSON, as by `summary`.
    """
    found = {
        "name": name,
        "protocol": analysis.rungs[0].comparison.protocol,
        "unit": analysis.rungs[0].comparison.unit,
        "verdict": ladder_verdict(analysis),
        "sizes": analysis.sizes,
        "seeds": analysis.seeds,
        "arms": analysis.arms,
        "costs": {unit: costs.tolist() for unit, costs in analysis.costs.items()},
        "losses": analysis.losses.tolist(),
        "laws": {unit: [law._asdict() for law in laws] for unit, laws in analysis.laws.items()},
        "exponents": analysis.exponents,
        "floors": analysis.floors,
        "held_out": None if analysis.held_out is None else analysis.held_out.tolist(),
        "speed_ups": analysis.speed_ups,
        "looks": [look._asdict() for look in analysis.looks],
        "files": files,
    }
    return to_json(found, indent=2, inf_nan_mode="strings").decode()
