"""The verdict in words: what was found, what was not, and what it would take."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from gelu_jax.compare.analysis import Analysis, ArmSummary, Contrast
from gelu_jax.compare.curves import final_loss
from gelu_jax.compare.statistics import fewest_pairs
from gelu_jax.report.wording import counted, duration, listed, signed

_FEW = 4
"""Contrasts that the headline names."""

_MANY = 12
"""Contrasts that each have a sentence, whatever was found."""


@dataclass(frozen=True)
class Verdict:
    """What a comparison found, in sentences.

    Attributes:
      headline: the result in one sentence.
      sentences: one for each contrast, with its evidence.
      order: the arms by mean loss; empty where no conclusion is drawn.
      notes: what to keep in mind: seeds that diverged or are missing, rates that were not tuned.
    """

    headline: str
    sentences: tuple[str, ...]
    order: str
    notes: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join(filter(None, (self.headline, *self.sentences, self.order, *self.notes)))


def verdict(analysis: Analysis) -> Verdict:
    """Puts an analysis into words. No conclusion is drawn from a smoke test or a single arm.

    Args:
      analysis: the numbers.

    Returns:
      The sentences; `str` gives them one per line.
    """
    conclusive = analysis.comparison.protocol == "full" and len(analysis.order) > 1
    conclusive = conclusive and is_default(analysis)
    return Verdict(
        headline=_headline(analysis),
        sentences=tuple(_sentences(analysis)),
        order=_order(analysis) if conclusive else "",
        notes=tuple(_notes(analysis)),
    )


def _headline(analysis: Analysis) -> str:
    comparison, first = analysis.comparison, analysis.arms[0]
    if not any(arm.losses for arm in analysis.arms):
        stopped = any(arm.stopped for arm in analysis.arms)
        why = "all that ended stopped early" if stopped else "there is nothing to report yet"
        return f"No run finished: {why}."
    if comparison.protocol != "full":
        return f"{comparison.protocol.capitalize()}: no conclusion is drawn."
    if not analysis.contrasts:
        return f"{first.arm.name} reaches a {comparison.metric} of {_level(analysis, first)}."
    return _contrast_headline(analysis, first.arm.name)


def _level(analysis: Analysis, arm: ArmSummary) -> str:
    spread = f" ± {arm.sd:.{analysis.decimals}f}" if math.isfinite(arm.sd) else ""
    return f"{arm.mean:.{analysis.decimals}f}{spread} {analysis.comparison.unit}"


def _contrast_headline(analysis: Analysis, first: str) -> str:
    contrasts, metric = analysis.contrasts, analysis.comparison.metric
    if not is_default(analysis):
        found = [c for c in contrasts if c.found]
        verb = "differs" if len(found) == 1 else "differ"
        total = counted(len(contrasts), "contrast")
        sides = (
            ("below", [c for c in found if c.mean < 0]),
            ("above", [c for c in found if c.mean > 0]),
        )
        named = [f"{listed([c.name for c in cs])} {side} it" for side, cs in sides if cs]
        names = f": {'; '.join(named)}" if 0 < len(found) <= _FEW else ""
        return f"{len(found) or 'None'} of {total} {verb} significantly from zero{names}."
    lower = [c.name for c in contrasts if c.found and c.mean < 0]
    higher = [c.name for c in contrasts if c.found and c.mean > 0]
    diverged = [c.name for c in contrasts if c.diverged]
    censored = [c.name for c in contrasts if c.censored and not c.diverged]
    unclear = [c.name for c in contrasts if not (c.found or c.diverged or c.censored)]
    parts = [
        f"{listed(names)} {'reaches' if len(names) == 1 else 'reach'} "
        f"a significantly {side} {metric} than {first}"
        for names, side in ((lower, "lower"), (higher, "higher"))
        if names
    ]
    if unclear:
        lead = "" if parts else "Inconclusive: "
        verb = "does" if len(unclear) == 1 else "do"
        parts.append(f"{lead}{listed(unclear)} {verb} not differ significantly from {first}")
    for names, why in ((diverged, "diverged"), (censored, "stopped early")):
        if names:
            lead = "no" if parts else "No"
            parts.append(f"{lead} conclusion about {listed(names)}, because a run {why}")
    return "; ".join(parts) + "."


def is_default(analysis: Analysis) -> bool:
    """Whether the contrasts are each arm against the first, tested with every pair of arms.

    Args:
      analysis: the numbers.

    Returns:
      False where the config names contrasts of its own.
    """
    return not analysis.comparison.config.get("contrasts")


def _sentences(analysis: Analysis) -> Iterator[str]:
    if analysis.comparison.protocol == "unfinished":
        yield "This is what is there so far; whoever stops at what it shows picks the result."
    elif analysis.comparison.protocol == "smoke test":
        yield "This only shows that everything runs. For a verdict, run the full protocol."
    elif not analysis.contrasts:
        seeds = counted(len(analysis.arms[0].losses), "seed")
        yield f"There is one arm with {seeds}, and no other arm to compare it with."
    unclear = [c for c in analysis.contrasts if _is_inconclusive(c)]
    short = len(analysis.contrasts) > _MANY and analysis.comparison.protocol == "full"
    for contrast in analysis.contrasts:
        if not short or contrast not in unclear:
            yield _sentence(analysis, contrast)
    if short and unclear:
        yield _of_all(analysis, unclear)


def _is_inconclusive(contrast: Contrast) -> bool:
    known = contrast.seeds and not (contrast.diverged or contrast.censored)
    return bool(known) and not contrast.found and any(contrast.differences)


def _of_all(analysis: Analysis, unclear: Sequence[Contrast]) -> str:
    """One sentence for many inconclusive contrasts; the table has each of them."""
    limits = sorted(contrast.detectable for contrast in unclear)
    why = _limit(analysis, unclear[0])
    if math.isfinite(limits[-1]):
        low, high = (f"{limit:.{analysis.decimals}f}" for limit in (limits[0], limits[-1]))
        unit = analysis.comparison.unit
        why = f"their minimum detectable differences are {low} to {high} {unit}"
    names = listed([contrast.name for contrast in unclear])
    return f"Inconclusive: {names}; {why}. The table of contrasts has their intervals."


def _sentence(analysis: Analysis, contrast: Contrast) -> str:
    if not contrast.seeds:
        return f"{contrast.name}: no seed finished for both {listed(sorted(contrast.weights))}."
    pairs = counted(len(contrast.seeds), "paired seed")
    if not any(contrast.differences):
        same = f"the same loss as {contrast.pair[1]}" if contrast.pair else "zero"
        return f"{contrast.name}: exactly {same} ({pairs})."
    gap = f"{contrast.name}: {_gap(analysis, contrast)}"
    if analysis.comparison.protocol != "full":
        return f"{gap} over {pairs}."
    evidence = f"{gap} ({_evidence(analysis, contrast)}{pairs})."
    return f"{evidence} {_conclusion(analysis, contrast)}".rstrip()


def _gap(analysis: Analysis, contrast: Contrast) -> str:
    unit = analysis.comparison.unit
    if contrast.pair is None:
        return f"{signed(contrast.mean, analysis.decimals)} {unit}"
    arm, baseline = contrast.pair
    size = f"{abs(contrast.mean):.{analysis.decimals}f} {unit}"
    side = f"{'lower' if contrast.mean < 0 else 'higher'} than {baseline}"
    return f"{size} {side}" if contrast.name == arm else f"{arm} is {size} {side}"


def _evidence(analysis: Analysis, contrast: Contrast) -> str:
    if contrast.interval is None:
        return ""
    low, high = (signed(value, analysis.decimals) for value in contrast.interval)
    p = f"{p_name(analysis)} = {contrast.p_adjusted:.2g}"
    return f"95 % confidence interval {low} to {high}, {p}, "


def p_name(analysis: Analysis) -> str:
    """What the p-values of the contrasts are called.

    Args:
      analysis: the numbers.

    Returns:
      "adjusted p"; "p" where there is one contrast and one look, which need no adjustment.
    """
    return "adjusted p" if len(analysis.family) > 1 or len(analysis.looks) > 1 else "p"


def _conclusion(analysis: Analysis, contrast: Contrast) -> str:
    if contrast.diverged:
        return "No conclusion: a run diverged, and the remaining seeds overstate its arm."
    if contrast.censored:
        return (
            "No conclusion: a run stopped early, so its final loss is not known, and the remaining "
            "seeds are no fair sample."
        )
    if contrast.found:
        return _faster(contrast)
    return f"Inconclusive: {_limit(analysis, contrast)}. {_more(analysis, contrast)}."


def _faster(contrast: Contrast) -> str:
    reached = math.isfinite(contrast.speed_up) and contrast.speed_up > 0
    if contrast.pair is None or contrast.mean > 0 or not reached:
        return ""
    target = f"{contrast.pair[1]}'s median final loss"
    return f"It reaches {target} in {contrast.speed_up:.2f} × fewer steps."


def _limit(analysis: Analysis, contrast: Contrast) -> str:
    if math.isfinite(contrast.detectable):
        return f"the minimum detectable difference is {contrast.detectable:.{analysis.decimals}f}"
    fewest = fewest_pairs(analysis.level)
    return f"with fewer than {fewest} paired seeds, no difference is significant"


def _more(analysis: Analysis, contrast: Contrast) -> str:
    needed, now = contrast.seeds_needed, analysis.looks[-1].pairs
    if needed is None:
        return "Finding a difference this small would take more than 100 seeds"
    if now < needed <= analysis.max_seeds:
        seeds = f"{counted(needed - now, 'more seed')}{_time(analysis, needed - now)}"
    else:
        after = 1 + max(run.seed for run in analysis.comparison.runs if run.purpose == "report")
        seeds = (
            f"a new comparison with {counted(needed, 'seed')} from {after} on"
            f"{_time(analysis, needed)}"
        )
    if len(contrast.seeds) < 2:
        return f"It takes at least {seeds}"
    return f"If the difference is real, {seeds} would find it with 80 % power"


def _time(analysis: Analysis, seeds: int) -> str:
    seconds = analysis.seconds(seeds)
    return f" (about {duration(seconds)})" if math.isfinite(seconds) else ""


def _order(analysis: Analysis) -> str:
    arms, lower = [arm.arm.name for arm in analysis.order], analysis.significant
    chain = arms[0] + "".join(
        f" {'<' if pair in lower else '≈'} {pair[1]}" for pair in pairwise(arms)
    )
    others = [
        f"{low} < {listed(highs)}"
        for index, low in enumerate(arms)
        if (highs := [high for high in arms[index + 2 :] if _unsaid(analysis, low, high)])
    ]
    also = f"; also significant: {'; '.join(others)}" if others else ""
    legend = " (< significant, ≈ not significant)" if "≈" in chain else ""
    return f"Order by mean loss{legend}: {chain}{also}."


def _unsaid(analysis: Analysis, low: str, high: str) -> bool:
    """Whether a pair is significant, and the signs between neighbours do not say so already."""
    arms = [arm.arm.name for arm in analysis.order]
    between = arms[arms.index(low) : arms.index(high) + 1]
    chained = all(pair in analysis.significant for pair in pairwise(between))
    return (low, high) in analysis.significant and not chained


def _notes(analysis: Analysis) -> Iterator[str]:
    comparison = analysis.comparison
    planned = {run.seed for run in comparison.runs if run.purpose == "report"}
    if analysis.contrasts and len(planned) > analysis.max_seeds and comparison.protocol == "full":
        yield (
            f"The level was planned for {counted(analysis.max_seeds, 'seed')} and is spent: the "
            "seeds added since can hardly make a difference significant. To add seeds later, set "
            "max_seeds before a comparison begins."
        )
    for arm in analysis.arms:
        name, runs = arm.arm.name, len(comparison.runs_of(arm.arm.name))
        if arm.diverged:
            yield f"{name}: {len(arm.diverged)} of {runs} seeds diverged (not in its mean)."
        if arm.stopped:
            yield _stopped(analysis, arm)
        if arm.interrupted:
            yield f"{name}: {len(arm.interrupted)} of {runs} seeds not finished."
        if missing := len(planned) - runs:
            yield f"{name}: {missing} of {len(planned)} seeds missing."
        if arm.at_edge:
            rate = f"{arm.learning_rate:g}"
            yield f"{name}: its best learning rate, {rate}, is at the edge of the grid."
    yield from _sensitivity(analysis)
    if analysis.contrasts and not any(len(arm.rates) > 1 for arm in analysis.arms):
        yield (
            "The learning rate was not tuned for each arm, "
            "so part of each difference may be due to the rate."
        )


def _stopped(analysis: Analysis, arm: ArmSummary) -> str:
    """How many seeds of an arm stopped early, when, and at which loss."""
    comparison, runs = analysis.comparison, analysis.comparison.runs_of(arm.arm.name)
    stopped = [run for run in runs if run.status == "stopped"]
    steps = sorted({run.eval_steps[-1] for run in stopped})
    losses = [final_loss(run, comparison.metric) for run in stopped]
    spread = " to ".join(
        f"{loss:.{analysis.decimals}f}" for loss in sorted({min(losses), max(losses)})
    )
    return (
        f"{arm.arm.name}: {len(stopped)} of {counted(len(runs), 'seed')} stopped early, at step "
        f"{' to '.join(map(str, steps[:: max(1, len(steps) - 1)]))}, with a {comparison.metric} of "
        f"{spread} (censored: not in its mean)."
    )


def _sensitivity(analysis: Analysis) -> Iterator[str]:
    """What a better choice of the rates might gain, beside the differences that were found."""
    regrets = {a.arm.name: a.regret for a in analysis.arms if math.isfinite(a.regret)}
    if not regrets or not analysis.contrasts or analysis.comparison.protocol != "full":
        return
    gains = listed([f"{gain:.{analysis.decimals}f} ({arm})" for arm, gain in regrets.items()])
    found = [c for c in analysis.contrasts if c.found and c.pair is not None]
    owed = [c.name for c in found if abs(c.mean) <= regrets.get(_loser(c), 0.0)]
    line = f"A better choice of the learning rate might lower the loss by {gains}"
    if owed:
        yield f"{line}: the difference of {listed(owed)} may be due to the rate."
    elif found:
        yield f"{line}: less than each significant difference."
    else:
        yield f"{line}."


def _loser(contrast: Contrast) -> str:
    arm, baseline = contrast.pair or ("", "")
    return baseline if contrast.mean < 0 else arm
