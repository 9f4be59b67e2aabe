"""A report from a comparison alone: it is drawn again without training again."""

from pathlib import Path

from gelu_jax.compare.analysis import analyze
from gelu_jax.compare.records import Comparison, write_csv
from gelu_jax.files import write_file
from gelu_jax.report.figures import curves_figure
from gelu_jax.report.page import page


def write_report(comparison: Comparison, directory: Path) -> tuple[Path, ...]:
    """Writes `report.html`, `curves.png`, `curves.svg` and `results.csv`; returns their paths.

    Each file replaces an older one at once, so no reader meets a half-written report.
    """
    analysis = analyze(comparison)
    write_csv(comparison, directory)
    contents = {f"curves.{kind}": data for kind, data in curves_figure(analysis).items()}
    for name, content in {**contents, "report.html": page(analysis)}.items():
        write_file(directory / name, content)
    names = ("report.html", "curves.png", "curves.svg", "results.csv")
    return tuple(directory / name for name in names)
