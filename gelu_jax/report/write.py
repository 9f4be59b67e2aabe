"""The files of a report, drawn from a comparison alone: no training is repeated."""

from pathlib import Path

from gelu_jax.compare.analysis import analyze
from gelu_jax.compare.records import Comparison, write_csv
from gelu_jax.files import write_file
from gelu_jax.report.figures import curves, saved
from gelu_jax.report.page import page


def write_report(comparison: Comparison, directory: Path) -> tuple[Path, ...]:
    """Writes `report.html`, `curves.png`, `curves.svg`, `curves.pdf` and `results.csv`.

    Each file is replaced atomically, so nobody reads a half-written report.

    Args:
      comparison: the record of a comparison, finished or not.
      directory: where to write; made if needed.

    Returns:
      The paths of the files, the page first, and last that of `results.json` if it is there.

    Raises:
      OSError: a file cannot be written.
    """
    analysis = analyze(comparison)
    write_csv(comparison, directory)
    drawn = saved(curves(analysis))
    contents = {f"curves.{kind}": data for kind, data in drawn.items()}
    for name, content in {**contents, "report.html": page(analysis)}.items():
        write_file(directory / name, content)
    names = ("report.html", *(f"curves.{kind}" for kind in drawn), "results.csv")
    record = directory / "results.json"
    return (*(directory / name for name in names), *([record] if record.exists() else []))
