"""report: draws what has been trained."""

from gelu_jax.cli.arguments import Finished
from gelu_jax.cli.compare import report_ladder
from gelu_jax.cli.session import show
from gelu_jax.compare.analysis import analyze
from gelu_jax.compare.climb import is_ladder
from gelu_jax.compare.records import read_results
from gelu_jax.report.verdict import verdict
from gelu_jax.report.write import write_report


def report_command(run: Finished) -> None:
    """Draw the report of a finished run, comparison or ladder again, without training.

    Args:
        run: its directory, such as runs/compare_activations.
    """
    if is_ladder(run):
        report_ladder(run, json=False)
        return
    comparison = read_results(run)
    show(verdict(analyze(comparison)), write_report(comparison, run))
