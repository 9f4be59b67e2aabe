"""report: draws what has been trained."""

import math
from pathlib import Path

import jax

from gelu_jax.cli.arguments import Finished
from gelu_jax.cli.compare import report_ladder
from gelu_jax.cli.configs import make_importable
from gelu_jax.cli.session import show
from gelu_jax.compare.analysis import analyze
from gelu_jax.compare.climb import is_ladder
from gelu_jax.compare.records import read_results
from gelu_jax.compare.unfinished import read_unfinished
from gelu_jax.report.verdict import verdict
from gelu_jax.report.wording import duration
from gelu_jax.report.write import write_report


def report_command(run: Finished) -> None:
    """Draw the report of a run, comparison or ladder again, without training.

    Of one that is not finished, also while it is being trained: say what is missing, and draw what
    is there.

    Args:
        run: its directory, such as runs/compare_activations.
    """
    if is_ladder(run):
        report_ladder(run, json=False)
    elif (run / "config.yaml").exists() and not (run / "results.json").exists():
        _report_unfinished(run)
    else:
        comparison = read_results(run)
        show(verdict(analyze(comparison)), write_report(comparison, run))


def _report_unfinished(run: Path) -> None:
    jax.config.update("jax_platforms", "cpu")  # the device may be in use by what is being trained
    make_importable(run)
    found = read_unfinished(run)
    left = f", about {duration(found.seconds)} of training left" * math.isfinite(found.seconds)
    print(f"{found.done} of {found.planned} runs are done{left}:")
    print(*found.missing, sep="\n")
    show(verdict(analyze(found.comparison)), write_report(found.comparison, run))
