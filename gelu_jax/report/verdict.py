"""The verdict in words: what was found, what was not, and what it would take."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from gelu_jax.compare.analysis import ALPHA, Analysis, ArmSummary, Contrast
from gelu_jax.compare.statistics import fewest_pairs


@dataclass(frozen=True)
class Verdict:
    """One headline, a sentence for each contrast, the order, and what to keep in mind."""

    headline: str
    sentences: tuple[str, ...]
    order: str
    notes: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join(filter(None, (self.headline, *self.sentences, self.order, *self.notes)))


def verdict(analysis: Analysis) -> Verdict:
    """Puts an analysis into words; a smoke test and a single arm draw no conclusion."""
    conclusive = analysis.comparison.protocol == "full" and len(analysis.order) > 1
    return Verdict(
        headline=_headline(analysis),
        sentences=tuple(_sentences(analysis)),
        order=_order(analysis) if conclusive else "",
        notes=tuple(_notes(analysis)),
    )


def _headline(analysis: Analysis) -> str:
    comparison, first = analysis.comparison, analysis.arms[0]
    if not analysis.order:
        return "No run finished: there is nothing to report yet."
    if comparison.protocol == "smoke test":
        return "Smoke test: no conclusion is drawn."
    if not analysis.contrasts:
        return f"{first.arm.name} reaches a {comparison.metric} of {_level(analysis, first)}."
    return _contrast_headline(analysis, first.arm.name)


def _contrast_headline(analysis: Analysis, first: str) -> str:
    contrasts, metric = analysis.contrasts, analysis.comparison.metric
    lower = [c.arm for c in contrasts if c.found and c.mean < 0]
    higher = [c.arm for c in contrasts if c.found and c.mean > 0]
    diverged = [c.arm for c in contrasts if c.diverged]
    unclear = [c.arm for c in contrasts if not c.found and not c.diverged]
    parts = [
        f"{listed(names)} {'ends' if len(names) == 1 else 'end'} at a {word} {metric} than {first}"
        for names, word in ((lower, "lower"), (higher, "higher"))
        if names
    ]
    if unclear:
        lead = "" if parts else "Inconclusive: "
        parts.append(f"{lead}{listed(unclear)} cannot be told apart from {first}")
    if diverged:
        lead = "no" if parts else "No"
        parts.append(f"{lead} conclusion on {listed(diverged)} against {first}: a run diverged")
    return "; ".join(parts) + "."


def _sentences(analysis: Analysis) -> Iterator[str]:
    if analysis.comparison.protocol == "smoke test":
        yield "It shows that everything runs; for a verdict, run the full protocol."
    elif not analysis.contrasts:
        yield from _alone(analysis.arms[0])
    for contrast in analysis.contrasts:
        yield _sentence(analysis, contrast)


def _alone(arm: ArmSummary) -> Iterator[str]:
    yield (
        f"One arm, {counted(len(arm.losses), 'seed')}; "
        f"nothing is compared, so there are no differences to test."
    )


def _sentence(analysis: Analysis, contrast: Contrast) -> str:
    first, unit = analysis.arms[0].arm.name, analysis.comparison.unit
    if not contrast.seeds:
        return f"{contrast.arm}: no seed was finished by both it and {first}."
    size = f"{abs(contrast.mean):.{analysis.decimals}f}"
    side = "lower" if contrast.mean < 0 else "higher"
    gap = f"{contrast.arm}: {size} {unit} {side} than {first}"
    pairs = f"{counted(len(contrast.seeds), 'pair')} of seeds"
    if analysis.comparison.protocol == "smoke test":
        return f"{gap} over {pairs}."
    evidence = f"{gap} ({_evidence(analysis, contrast)}{pairs})."
    return f"{evidence} {_conclusion(analysis, contrast)}".rstrip()


def _evidence(analysis: Analysis, contrast: Contrast) -> str:
    if contrast.interval is None:
        return ""
    low, high = (signed(value, analysis.decimals) for value in contrast.interval)
    holm = " after Holm" if len(analysis.contrasts) > 1 else ""
    return f"95 % interval {low} to {high}, p = {contrast.p_adjusted:.2g}{holm}, "


def _conclusion(analysis: Analysis, contrast: Contrast) -> str:
    if contrast.diverged:
        return "No conclusion: a run diverged, and the seeds that are left flatter its arm."
    if contrast.found:
        return _sooner(analysis, contrast)
    if not any(contrast.differences):
        return "Inconclusive: every pair is equal to the last digit."
    return f"Inconclusive: {_could_have_seen(analysis, contrast)}; {_more(contrast)}."


def _sooner(analysis: Analysis, contrast: Contrast) -> str:
    first = analysis.arms[0].arm.name
    if contrast.mean > 0 or not math.isfinite(contrast.speed_up) or contrast.speed_up == 0:
        return ""
    return f"It reaches the median final loss of {first} {contrast.speed_up:.2f} × sooner."


def _could_have_seen(analysis: Analysis, contrast: Contrast) -> str:
    if math.isfinite(contrast.detectable):
        return f"it could have seen {contrast.detectable:.{analysis.decimals}f}"
    fewest = fewest_pairs(ALPHA / len(analysis.contrasts))
    return f"fewer than {fewest} pairs can never reach p ≤ {ALPHA} here"


def _more(contrast: Contrast) -> str:
    if contrast.more_seeds is None:
        return "a difference this small would need more than 100 seeds"
    seeds = counted(contrast.more_seeds, "more seed")
    if not math.isfinite(contrast.more_seconds):
        return f"{seeds} would show it with 80 % power, if it is real"
    time = duration(contrast.more_seconds)
    return f"{seeds} would take about {time} and show it with 80 % power, if it is real"


def _order(analysis: Analysis) -> str:
    arms = [arm.arm.name for arm in analysis.order]
    words = arms[0]
    for before, after in pairwise(arms):
        words += f" {'<' if (before, after) in analysis.told_apart else '≈'} {after}"
    apart = [
        f"{low} < {high}"
        for low, high in sorted(analysis.told_apart)
        if low in arms
        and arms.index(high) > arms.index(low) + 1
        and not _chained(analysis, low, high)
    ]
    words += f"; told apart all the same: {', '.join(apart)}" if apart else ""
    return f"Order by mean loss: {words}" + (" (≈: not told apart)." if "≈" in words else ".")


def _chained(analysis: Analysis, low: str, high: str) -> bool:
    """Whether the signs between neighbours already say that one is lower than the other."""
    arms = [arm.arm.name for arm in analysis.order]
    between = arms[arms.index(low) : arms.index(high) + 1]
    return all(pair in analysis.told_apart for pair in pairwise(between))


def _notes(analysis: Analysis) -> Iterator[str]:
    comparison = analysis.comparison
    planned = {run.seed for run in comparison.runs if run.purpose == "report"}
    for arm in analysis.arms:
        name, runs = arm.arm.name, len(comparison.runs_of(arm.arm.name))
        if arm.diverged:
            yield f"{name}: {len(arm.diverged)} of {runs} seeds diverged; its mean leaves them out."
        if arm.interrupted:
            yield f"{name}: {len(arm.interrupted)} of {runs} seeds are not finished."
        if runs < len(planned):
            yield f"{name}: {len(planned) - runs} of {len(planned)} seeds were not run."
        if arm.at_edge:
            yield f"{name}: its best learning rate {arm.learning_rate:g} lies at the grid's edge."
    if analysis.contrasts and not any(len(arm.rates) > 1 for arm in analysis.arms):
        yield (
            "The learning rate was not tuned for each arm: "
            "a part of each difference may belong to the rate."
        )


def _level(analysis: Analysis, arm: ArmSummary) -> str:
    spread = f" ± {arm.sd:.{analysis.decimals}f}" if math.isfinite(arm.sd) else ""
    return f"{arm.mean:.{analysis.decimals}f}{spread} {analysis.comparison.unit}"


def signed(value: float, decimals: int) -> str:
    """A number with its sign, the minus as in print.

    >>> signed(-0.0425, 3), signed(0.1, 2)
    ('−0.043', '+0.10')
    """
    return f"{value:+.{decimals}f}".replace("-", "−")


def counted(number: int, noun: str) -> str:
    """A number and its noun.

    >>> counted(1, "seed"), counted(8, "seed")
    ('1 seed', '8 seeds')
    """
    return f"{number} {noun}{'s' * (number != 1)}"


def listed(names: Sequence[str]) -> str:
    """Names as a sentence lists them.

    >>> listed(["gelu", "silu", "swiglu"])
    'gelu, silu and swiglu'
    """
    *before, last = names
    return f"{', '.join(before)} and {last}" if before else last


def duration(seconds: float) -> str:
    """Seconds in words.

    >>> duration(40), duration(125), duration(9000)
    ('40 seconds', '2 minutes', '2.5 hours')
    """
    if seconds >= 5400:
        return f"{seconds / 3600:.1f} hours"
    if seconds >= 90:
        return f"{seconds / 60:.0f} minutes"
    return counted(max(1, round(seconds)), "second")
