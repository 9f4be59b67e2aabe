"""What a comparison found, as one JSON document for scripts."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic_core import to_json

from gelu_jax.compare.analysis import Analysis, Contrast
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
