"""The methods paragraph: what was done, in words, from the records alone."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gelu_jax.compare.analysis import ALPHA, Analysis
from gelu_jax.compare.records import Comparison, Run
from gelu_jax.compare.statistics import EXACT_PAIRS
from gelu_jax.report.wording import counted, listed, ranged

_MATCHED = {
    "parameters": "Hidden widths are chosen to match parameter counts.",
    "flops": "Hidden widths are chosen to match FLOPs per step.",
    "width": "Hidden widths are those of the config.",
}
_SAID = {"steps", "seed", "learning_rate"}  # in sentences of their own


def methods(analysis: Analysis) -> str:
    """Says what was trained, on what, how rates were chosen and which statistics were used.

    Args:
      analysis: the numbers, with the comparison that they were computed from.

    Returns:
      One paragraph.
    """
    return " ".join(_sentences(analysis))


def _sentences(analysis: Analysis) -> Iterator[str]:
    comparison = analysis.comparison
    reported = [run for run in comparison.runs if run.purpose == "report"]
    steps = max((run.train_steps[-1] for run in reported if run.train_steps), default=0)
    names = [arm.name for arm in comparison.arms]
    arms, were = ("One arm", "was") if len(names) == 1 else (f"{len(names)} arms", "were")
    yield (
        f"{arms} ({listed(names)}) {were} trained from {_seeds(reported)} for {steps:,} steps of "
        f"{comparison.tokens_per_step:,} tokens."
    )
    yield from _settings(analysis.run_config)
    if description := comparison.data.get("description"):
        yield f"Source of the data: {description.rstrip('.')}."
    if comparison.metric == "training loss":
        yield "The training loss is the mean over the steps since the previous evaluation."
    yield from _learning_rates(comparison)
    if analysis.contrasts:
        yield from _contrasts(analysis)


def _contrasts(analysis: Analysis) -> Iterator[str]:
    comparison, first = analysis.comparison, analysis.arms[0].arm
    worst = max(abs(arm.mismatch) for arm in analysis.arms)
    yield from filter(None, [_MATCHED.get(comparison.config.get("match", ""))])
    if worst == 0:
        yield f"All arms have {first.parameters:,} parameters."
    else:
        others = f"the other arms are within {100 * worst:.1f} % of that"
        yield f"{first.name} has {first.parameters:,} parameters; {others}."
    yield (
        "For each seed, all arms see the data in the same order and start from the same values "
        "in the tensors that they share."
    )
    yield f"The target of the speed-up is {first.name}'s median final {comparison.metric}."
    yield (
        "± is the standard deviation over seeds. Differences are paired by seed. Their 95 % "
        "confidence intervals are bootstrap intervals (BCa; percentile for the speed-up), not "
        "adjusted for multiple comparisons."
    )
    if comparison.protocol == "smoke test":
        yield "This was a smoke test: too short and with too few seeds for a conclusion."
    else:
        yield from _tests(analysis)


def _tests(analysis: Analysis) -> Iterator[str]:
    count = len(analysis.contrasts)
    pairs = max(len(contrast.seeds) for contrast in analysis.contrasts)
    exact = "the exact" if pairs <= EXACT_PAIRS else "a sampled"
    holm = f", Holm-adjusted over {count} contrasts" if count > 1 else ""
    yield (
        f"p-values are from {exact} two-sided sign-flip test{holm}; a difference is significant at "
        f"p ≤ {ALPHA}."
    )
    if count > 1:
        yield "Differences among the other arms are Holm-adjusted as a separate family."
    level = f"{ALPHA}/{count}" if count > 1 else f"{ALPHA}"
    yield f"The minimum detectable difference is for 80 % power at level {level}."
    yield "All of this holds for a number of seeds that was fixed in advance."
    gains = [f"{c.pairing_gain:.1f} ({c.arm})" for c in analysis.contrasts if c.pairing_gain < 1e6]
    if gains:
        yield f"Pairing divided the variance of the difference by {listed(gains)}."


def _learning_rates(comparison: Comparison) -> Iterator[str]:
    reported = [run for run in comparison.runs if run.purpose == "report"]
    tuning = [run for run in comparison.runs if run.purpose == "tuning"]
    rates = [f"{rate:g}" for rate in sorted({run.learning_rate for run in tuning or reported})]
    if tuning:
        apart = {run.seed for run in reported}.isdisjoint(run.seed for run in tuning)
        others = "none of which is reported" if apart else "some of which are reported too"
        yield (
            f"Each arm's learning rate is the best of {listed(rates)} by mean final "
            f"{comparison.metric} over {_seeds(tuning)}, {others}."
        )
    elif rates:
        yield f"The learning rate ({listed(rates)}) was not tuned."


def _settings(config: Mapping[str, Any]) -> Iterator[str]:
    """A sentence for each section of the config, with its plain fields."""
    loose = {key: value for key, value in config.items() if _is_plain(value)}
    sections = {key: value for key, value in config.items() if isinstance(value, Mapping)}
    for title, section in {**sections, "other settings": loose}.items():
        fields = [
            f"{key} = {_shown(value)}"
            for key, value in section.items()
            if _is_plain(value) and key not in _SAID
        ]
        if fields:
            yield f"{title.replace('_', ' ').capitalize()}: {', '.join(fields)}."


def _is_plain(value: object) -> bool:
    return isinstance(value, (str, int, float)) and value != ""


def _shown(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _seeds(runs: Sequence[Run]) -> str:
    seeds = sorted({run.seed for run in runs})
    return counted(len(seeds), "seed") + (f" ({ranged(seeds)})" if seeds else "")
