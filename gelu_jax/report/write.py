"""The files of a report, drawn from a comparison alone: no training is repeated."""

from pathlib import Path

from gelu_jax.compare.analysis import analyze
from gelu_jax.compare.records import Comparison, write_csv
from gelu_jax.files import write_file
from gelu_jax.report.figures import curves_figure
from gelu_jax.report.page import page


def write_report(comparison: Comparison, directory: Path) -> tuple[Path, ...]:
    """Writes `report.html`, `curves.png`, `curves.svg` and `results.csv`.

    Each file is replaced atomically, so nobody reads a half-written report.

    Args:
      comparison: the record of a comparison, finished or not.
      directory: where to write; made if needed.

    Returns:
      The paths of the files, the page first.

    Raises:
      OSError: a file cannot be written.
    """
    analysis = analyze(comparison)
    write_csv(comparison, directory)
    contents = {f"curves.{kind}": data for kind, data in curves_figure(analysis).items()}
    for name, content in {**contents, "report.html": page(analysis)}.items():
        write_file(directory / name, content)
    names = ("report.html", "curves.png", "curves.svg", "results.csv")
    return tuple(directory / name for name in names)
