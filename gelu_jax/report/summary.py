"""What a comparison found, as one JSON document for scripts."""

from collections.abc import Sequence
from pathlib import Path

from pydantic_core import to_json

from gelu_jax.compare.analysis import Analysis
from gelu_jax.report.verdict import verdict


def summary(analysis: Analysis, files: Sequence[Path]) -> str:
    """The verdict and every number behind it; the runs themselves stand in `results.json`.

    ``contrasts`` holds an entry for each arm but the first, ``told_apart`` pairs (lower, higher).
    What is not finite is a string, as JSON has no word for it.
    """
    comparison = analysis.comparison
    found = {
        "name": comparison.name,
        "protocol": comparison.protocol,
        "metric": comparison.metric,
        "unit": comparison.unit,
        "verdict": verdict(analysis),
        "arms": [{**vars(arm), "mean": arm.mean, "sd": arm.sd} for arm in analysis.arms],
        "contrasts": analysis.contrasts,
        "told_apart": sorted(analysis.told_apart),
        "files": files,
    }
    return to_json(found, indent=2, inf_nan_mode="strings").decode()
