"""What a comparison can find, said before its runs are done."""

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from gelu_jax.compare.analysis import ALPHA
from gelu_jax.compare.config import CompareConfig
from gelu_jax.compare.curves import final_loss
from gelu_jax.compare.statistics import detectable_factor, family_share, fewest_pairs, power
from gelu_jax.runs.record import Run


def outlook(config: CompareConfig) -> str:
    """What the number of seeds allows, known from the config alone.

    Args:
      config: of the comparison.

    Returns:
      One line; empty where no conclusion is meant to be drawn.
    """
    if not _concludes(config):
        return ""
    seeds, fewest = config.max_seeds or config.seeds, fewest_pairs(ALPHA)
    who = f"{len(config.arms)} arms with {seeds} seed{'s' * (seeds != 1)}"
    if seeds < fewest:
        return (
            f"{who} can never conclude: no difference can be significant with fewer than "
            f"{fewest} seeds. Set seeds={fewest} or more."
        )
    factor = detectable_factor(seeds, ALPHA * _share(config))
    return (
        f"{who} have 80 % power for a difference of {factor:.1f} standard deviations of the "
        "paired differences."
    )


def forecast(config: CompareConfig, pilots: Mapping[str, Sequence[Run]]) -> str:
    """What the tuning runs suggest that the reported runs will find, and how long those will take.

    Args:
      config: of the comparison.
      pilots: arm → its tuning runs at the learning rate that was chosen, one per tuning seed.

    Returns:
      One line; empty where no conclusion is meant to be drawn or there are no pilots.
    """
    finished = {
        name: {run.seed: run for run in runs if run.status == "finished"}
        for name, runs in pilots.items()
    }
    if not _concludes(config) or not all(finished.values()):
        return ""
    runs = [run for arm in finished.values() for run in arm.values()]
    seconds = config.seeds * sum(
        max(run.seconds[-1] for run in arm.values()) for arm in finished.values()
    ) + sum(run.compile_seconds for run in runs) / max(1, len(runs) // len(finished))
    suggested = ", ".join(_suggestions(config, finished))
    return (
        f"The tuning seeds suggest {suggested}. The reported runs take about "
        f"{max(1, round(seconds / 60))} min, one after another."
    )


def _suggestions(config: CompareConfig, finished: Mapping[str, Mapping[int, Run]]) -> Iterator[str]:
    """For each arm its difference from the first and, given two pilots, the power to find it."""
    first, *others = finished
    for name in others:
        seeds = sorted(finished[first].keys() & finished[name].keys())
        differences = np.array([
            final_loss(finished[name][seed], config.metric)
            - final_loss(finished[first][seed], config.metric)
            for seed in seeds
        ])  # fmt: skip
        if not seeds:
            continue
        said = f"{name} {np.mean(differences):+.2g}".replace("-", "−")
        sd = float(np.std(differences, ddof=1)) if len(seeds) > 1 else math.nan
        if sd > 0:
            chance = power(
                float(np.mean(differences)) / sd,
                config.max_seeds or config.seeds,
                ALPHA,
                _share(config),
            )
            said += f" (power about {100 * chance:.0f} %)"
        yield said


def _concludes(config: CompareConfig) -> bool:
    return config.protocol == "full" and len(config.arms) > 1


def _share(config: CompareConfig) -> float:
    return family_share(len(config.arms), ALPHA)
