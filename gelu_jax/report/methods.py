"""The methods paragraph: what was done, in words, from the records alone."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gelu_jax.compare.analysis import ALPHA, Analysis
from gelu_jax.report.verdict import counted, listed


def methods(analysis: Analysis) -> str:
    """What was trained, on what, how rates were chosen and which statistics were used."""
    return " ".join(_sentences(analysis))


def _sentences(analysis: Analysis) -> Iterator[str]:
    comparison = analysis.comparison
    reported = [run for run in comparison.runs if run.purpose == "report"]
    seeds = sorted({run.seed for run in reported})
    steps = max((run.train_steps[-1] for run in reported if run.train_steps), default=0)
    names = [arm.arm.name for arm in analysis.arms]
    arms = "One arm" if len(names) == 1 else f"{len(names)} arms"
    yield (
        f"{arms} ({listed(names)}), trained from {counted(len(seeds), 'seed')} ({_ranged(seeds)}) "
        f"for {steps:,} steps of {comparison.tokens_per_step:,} tokens."
    )
    yield from _described(comparison.config)
    if description := comparison.data.get("description"):
        yield f"Source of the data: {description.rstrip('.')}."
    if comparison.metric == "training loss":
        yield "The training loss at an evaluation is the mean over the steps since the one before."
    if analysis.contrasts:
        yield from _compared(analysis)


def _compared(analysis: Analysis) -> Iterator[str]:
    comparison, first = analysis.comparison, analysis.arms[0].arm
    worst = max(abs(arm.mismatch) for arm in analysis.arms)
    yield f"Parameter counts differ by at most {100 * worst:.1f} % from {first.name}'s."
    yield "Seed by seed, arms share the order of the data and the initial values of common tensors."
    yield from _tuned(analysis)
    yield f"The target of the speed-up is the median final {comparison.metric} of {first.name}."
    yield (
        "The spread is the standard deviation over seeds; differences are paired by seed, with "
        "95 % bootstrap intervals (BCa; percentile for the speed-up)."
    )
    if comparison.protocol == "smoke test":
        yield "This was a smoke test: too short and too few seeds for a conclusion."
        return
    others = len(analysis.contrasts)
    yield (
        f"p-values are those of the exact two-sided sign-flip test, after Holm over "
        f"{counted(others, 'contrast')}, at level {ALPHA}; the order among the other arms has a "
        f"Holm of its own. Detectable differences are those found with 80 % power at level "
        f"{ALPHA}/{others}. All of this holds for a number of seeds that was fixed beforehand."
    )
    gains = [f"{c.pairing_gain:.1f} ({c.arm})" for c in analysis.contrasts if c.pairing_gain < 1e6]
    if gains:
        yield f"Pairing divided the variance of a difference by {listed(gains)}."


def _tuned(analysis: Analysis) -> Iterator[str]:
    comparison = analysis.comparison
    tuning = [run for run in comparison.runs if run.purpose == "tuning"]
    if not tuning:
        yield "The learning rate was not tuned for each arm."
        return
    rates = [f"{rate:g}" for rate in sorted({run.learning_rate for run in tuning})]
    seeds = sorted({run.seed for run in tuning})
    apart = seeds and not set(seeds) & {r.seed for r in comparison.runs if r.purpose == "report"}
    others = ", none of them reported" if apart else ", some of them reported too"
    yield (
        f"Each arm's learning rate is the best of {listed(rates)} by mean final "
        f"{comparison.metric} over {counted(len(seeds), 'seed')} ({_ranged(seeds)}{others})."
    )


def _described(config: Mapping[str, Any]) -> Iterator[str]:
    """A sentence for each section of the config, its plain fields as they stand."""
    loose = {key: value for key, value in config.items() if _is_plain(value)}
    sections = {key: value for key, value in config.items() if isinstance(value, Mapping)}
    for title, section in {**sections, "Further settings": loose}.items():
        fields = [f"{k} {_shown(v)}" for k, v in section.items() if _is_plain(v)]
        if fields:
            yield f"{title.replace('_', ' ').capitalize()}: {', '.join(fields)}."


def _is_plain(value: object) -> bool:
    return isinstance(value, (str, int, float, bool)) and value != ""


def _shown(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _ranged(seeds: Sequence[int]) -> str:
    """Seeds as a range where they are one.

    >>> _ranged([0, 1, 2]), _ranged([3, 7])
    ('0–2', '3, 7')
    """
    if len(seeds) > 2 and seeds[-1] - seeds[0] == len(seeds) - 1:
        return f"{seeds[0]}–{seeds[-1]}"
    return ", ".join(map(str, seeds))
