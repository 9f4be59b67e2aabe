"""The files of a report, drawn from a comparison alone: no training is repeated."""

from pathlib import Path

from gelu_jax.compare.analysis import analyze
from gelu_jax.compare.climb import rung_place
from gelu_jax.compare.config import CompareConfig
from gelu_jax.compare.ladder_analysis import LadderAnalysis
from gelu_jax.compare.records import Comparison, write_csv
from gelu_jax.files import write_file
from gelu_jax.report.figures import curves, saved, scaling
from gelu_jax.report.page import ladder_page, page


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


def write_ladder_report(
    analysis: LadderAnalysis, config: CompareConfig, directory: Path, command: str
) -> tuple[Path, ...]:
    """Writes `report.html`, `curves.png`, `curves.svg` and `curves.pdf` of a ladder.

    Args:
      analysis: its numbers.
      config: of the ladder.
      directory: where to write.
      command: what repeats it.

    Returns:
      The paths of the files, the page first.

    Raises:
      OSError: a file cannot be written.
    """
    places = [f"{rung_place(n, size)}/report.html" for n, size in enumerate(analysis.sizes)]
    contents = {f"curves.{kind}": data for kind, data in saved(scaling(analysis)).items()}
    text = ladder_page(analysis, config, directory.resolve().name, command, places)
    for name, content in {**contents, "report.html": text}.items():
        write_file(directory / name, content)
    return tuple(directory / name for name in ("report.html", *contents))
