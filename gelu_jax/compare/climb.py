"""Runs a ladder: one comparison after another, from the smallest size to the largest.

    <directory>/config.yaml                 the config of the ladder
    <directory>/ladder.json                 the places of its rungs
    <directory>/rungs/1-30k/results.json    a rung is a comparison, with all its files

A rung that is finished is only read, so a ladder can be done in pieces.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from gelu_jax.compare.analysis import tuning_losses
from gelu_jax.compare.config import CompareConfig
from gelu_jax.compare.experiment import compare
from gelu_jax.compare.ladder import (
    LadderConfig,
    RateLaw,
    Rung,
    rate_law,
    rungs,
)
from gelu_jax.compare.records import Comparison, read_results
from gelu_jax.compare.statistics import lowest_point
from gelu_jax.errors import ConfigError, Problem, check
from gelu_jax.files import write_file
from gelu_jax.training.config import read_config, write_config

FILE = "ladder.json"
CompareRung = Callable[[CompareConfig, Path], Comparison]


def climb(
    config: CompareConfig, directory: Path, compare_rung: CompareRung = compare
) -> tuple[Comparison, ...]:
    """Compares the arms at every size of a ladder; does only what is missing in the directory.

    Args:
      config: of the ladder.
      directory: where everything is written.
      compare_rung: does the comparison of one rung in a directory; by default here.

    Returns:
      The record of each rung, from the smallest to the largest.

    Raises:
      ConfigError: as by `compare`.
      KeyboardInterrupt: interrupted; the same call resumes.
    """
    write_config(config, directory / "config.yaml")
    sizes, done = ladder_rungs(config), list[Comparison]()
    places = [rung_place(number, rung.parameters) for number, rung in enumerate(sizes)]
    write_file(directory / FILE, json.dumps({"rungs": places}, indent=2) + "\n")
    for number, place in enumerate(places):
        done.append(compare_rung(rung_config(config, sizes, number, done), directory / place))
    return tuple(done)


def ladder_rungs(config: CompareConfig) -> tuple[Rung, ...]:
    """The sizes of a ladder.

    Args:
      config: with a ladder.

    Returns:
      Its rungs, from the smallest to the largest.

    Raises:
      ConfigError: there is no ladder, or a size cannot be made.
    """
    return rungs(_ladder(config), config.run, next(iter(config.arms.values())))


def _ladder(config: CompareConfig) -> LadderConfig:
    if config.ladder is None:
        raise ConfigError([Problem("ladder", None, "the config has none")])
    return config.ladder


def rung_place(number: int, parameters: int) -> str:
    """Where a rung is written.

    Args:
      number: of the rung, from 0.
      parameters: of its first arm.

    Returns:
      A path inside the directory of the ladder, such as rungs/2-61k.
    """
    return f"rungs/{number + 1}-{short(parameters)}"


def short(count: float) -> str:
    """A large number in two or three digits.

    Args:
      count: at least 1.

    Returns:
      Such as 29k or 1.2M.

    >>> short(29_640), short(1_234_567), short(124e6), short(900)
    ('30k', '1.2M', '124M', '900')
    """
    for unit, name in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if count >= 0.9995 * unit:
            return f"{count / unit:.{0 if count >= 10 * unit else 1}f}{name}"
    return f"{count:.0f}"


def rung_config(
    config: CompareConfig, sizes: Sequence[Rung], number: int, done: Sequence[Comparison]
) -> CompareConfig:
    """The comparison of one rung.

    Args:
      config: of the ladder.
      sizes: its rungs.
      number: of the rung, from 0.
      done: the records of the rungs below it.

    Returns:
      A config without a ladder, with the learning rates of the rung.
    """
    rung = sizes[number]
    size = f"{rung.parameters:,} parameters, {rung.tokens:,} tokens"
    return replace(
        config,
        run=rung.run,
        ladder=None,
        learning_rates=rung_rates(config, sizes, number, done),
        description=f"{config.description} Rung {number + 1} of {len(sizes)}: {size}.".strip(),
    )


def rung_rates(
    config: CompareConfig, sizes: Sequence[Rung], number: int, done: Sequence[Comparison]
) -> tuple[float, ...] | Mapping[str, tuple[float, ...]]:
    """The learning rates of a rung: the grid where it is tuned, and those of the law above.

    Args:
      config: of the ladder.
      sizes: its rungs.
      number: of the rung, from 0.
      done: the records of the rungs below it.

    Returns:
      `learning_rates` of the rung; the last one has both neighbours of the law's rate, a step of
      the grid away.
    """
    tuned = _ladder(config).tuned_rungs
    grids = {arm: sorted(config.grid(arm)) for arm in config.arms}
    if number < tuned or max(map(len, grids.values())) < 2:
        return config.learning_rates
    law = carried_rates(done[:tuned], [rung.parameters for rung in sizes])
    found: dict[str, tuple[float, ...]] = {}
    for arm, grid in grids.items():
        rate = law.rate(arm, sizes[number].parameters)
        ratio = (grid[-1] / grid[0]) ** (1 / max(1, len(grid) - 1))
        around = (rate / ratio, rate, rate * ratio) if number == len(sizes) - 1 else (rate,)
        found[arm] = tuple(float(f"{each:.2g}") for each in around)
    return found


def carried_rates(tuned: Sequence[Comparison], sizes: Sequence[int]) -> RateLaw:
    """The law of the learning rates of the rungs that were tuned.

    Args:
      tuned: their records, in which every arm has tried several rates.
      sizes: the parameters of their first arms.

    Returns:
      The law.
    """
    return rate_law({
        size: {
            arm.name: lowest_point(tuning_losses(rung, arm.name))[0] for arm in rung.arms
        }
        for size, rung in zip(sizes, tuned, strict=False)
    })  # fmt: skip


def is_ladder(directory: Path) -> bool:
    """Whether a directory holds a ladder.

    Args:
      directory: of a training, a comparison, or a ladder.

    Returns:
      True if it has rungs.
    """
    return (directory / FILE).exists()


def rung_homes(directory: Path) -> list[Path]:
    """The directories of a ladder's rungs, from the smallest to the largest.

    Args:
      directory: of a ladder.

    Returns:
      Their paths, whether or not there is anything yet.

    Raises:
      ConfigError: there is no ladder.
    """
    try:
        places: list[str] = json.loads((directory / FILE).read_bytes())["rungs"]
        return [directory / place for place in places]
    except (OSError, ValueError, KeyError, TypeError):
        raise ConfigError([Problem("run", directory, f"no {FILE} that can be read")]) from None


def read_ladder(directory: Path) -> tuple[CompareConfig, tuple[Comparison, ...]]:
    """Reads a ladder back.

    Args:
      directory: of a ladder, finished or not.

    Returns:
      Its config, and the records of the rungs that are finished.

    Raises:
      ConfigError: a file is missing or damaged, or fewer than three rungs are finished.
    """
    config, homes = read_config(directory / "config.yaml", CompareConfig), rung_homes(directory)
    found = tuple(read_results(home) for home in homes if (home / "results.json").exists())
    if len(found) < 3:
        reason = f"{len(found)} of {len(homes)} rungs are finished; a law needs 3"
        check([Problem("run", directory, reason)])
    return config, found
