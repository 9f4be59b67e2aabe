"""The tables of a report: one content, three renderings (HTML, Markdown, LaTeX)."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from markupsafe import Markup

from gelu_jax.compare.analysis import Analysis, ArmSummary, Contrast
from gelu_jax.report.literature import ANCHORS
from gelu_jax.report.templates import render
from gelu_jax.report.verdict import is_default, p_name
from gelu_jax.report.wording import number, signed, times


@dataclass(frozen=True)
class Table:
    """A header and rows of plain text; a cell may have a second line.

    Attributes:
      header: a heading for each column.
      rows: as many cells each; the first one names the row.
    """

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def html(self) -> Markup:
        """The table as HTML, every cell escaped."""
        return Markup(render("table.html", table=self))

    def markdown(self) -> str:
        """The table as Markdown, pipes and backslashes escaped."""
        return render("table.md", table=self)

    def latex(self) -> str:
        """The table as LaTeX with booktabs rules, LaTeX's own signs escaped."""
        return render("table.tex", table=self)


def results_table(analysis: Analysis) -> Table:
    """The main table, one row per arm; differences and p-values where arms are compared.

    Args:
      analysis: the numbers.

    Returns:
      The table, with the first arm in the first row.
    """
    comparison, arms, decimals = analysis.comparison, analysis.arms, analysis.decimals
    contrasts = (None, *analysis.contrasts) if is_default(analysis) else ()
    columns = {
        "arm": [arm.arm.name for arm in arms],
        f"{comparison.metric}\n({comparison.unit})": [_loss(arm, decimals) for arm in arms],
    }
    if analysis.contrasts and contrasts:  # the first arm has none
        heading = f"difference from {comparison.first.name}\n(95 % CI)"
        columns[heading] = [_difference(contrast, decimals) for contrast in contrasts]
        if comparison.protocol == "full":
            columns[p_name(analysis)] = [_p_value(contrast) for contrast in contrasts]
        columns["speed-up\n(95 % CI)"] = [_speed_up(contrast) for contrast in contrasts]
    if any(arm.accuracies for arm in arms):
        columns["accuracy"] = [_accuracy(arm) for arm in arms]
    columns["parameters"] = [_parameters(arm) for arm in arms]
    columns["learning rate"] = [number(arm.learning_rate, "g") for arm in arms]
    columns["ms per step"] = [number(1000 * arm.seconds_per_step, ".2f") for arm in arms]
    return Table(tuple(columns), tuple(zip(*columns.values(), strict=True)))


def _parameters(arm: ArmSummary) -> str:
    every, met = arm.arm.parameters, arm.arm.active_parameters
    notes = [f"{met:,} active"] if met not in (None, every) else []
    notes += [f"{signed(100 * arm.mismatch, 1)} %"] if arm.mismatch else []
    return f"{every:,}\n({', '.join(notes)})" if notes else f"{every:,}"


def _loss(arm: ArmSummary, decimals: int) -> str:
    spread = f" ± {arm.sd:.{decimals}f}" if math.isfinite(arm.sd) else ""
    lost = f"\n({len(arm.diverged)} diverged)" if arm.diverged else ""
    lost += f"\n({len(arm.stopped)} stopped early)" if arm.stopped else ""
    return number(arm.mean, f".{decimals}f") + spread + lost


def _accuracy(arm: ArmSummary) -> str:
    if not arm.accuracies:
        return "none"
    return f"{100 * sum(arm.accuracies) / len(arm.accuracies):.2f} %"


def _difference(contrast: Contrast | None, decimals: int) -> str:
    if contrast is None:
        return "baseline"
    mean = signed(contrast.mean, decimals)
    if contrast.interval is None:
        return mean
    low, high = (signed(bound, decimals) for bound in contrast.interval)
    return f"{mean}\n({low} to {high})"


def _p_value(contrast: Contrast | None) -> str:
    return number(contrast.p_adjusted, ".2g") if contrast else ""


def _speed_up(contrast: Contrast | None) -> str:
    if contrast is None:
        return ""
    if math.isnan(contrast.speed_up):
        return "none"
    value = "not reached" if contrast.speed_up == 0 else times(contrast.speed_up)
    if contrast.speed_up_interval is None or contrast.speed_up_interval == (0, 0):
        return value
    low, high = ("not reached" if b == 0 else f"{b:.2f}" for b in contrast.speed_up_interval)
    return f"{value}\n({low} to {high})"


def contrasts_table(analysis: Analysis) -> Table:
    """What the design can detect, one row per contrast, and the speed-up in other units.

    Args:
      analysis: the numbers.

    Returns:
      The table; it has no row where there is one arm. Contrasts of the config's own have their
      difference and p-value here, the others in the main table.
    """
    decimals, contrasts = f".{analysis.decimals}f", analysis.contrasts
    default = is_default(analysis)
    columns = {"arm" if default else "contrast": [contrast.name for contrast in contrasts]}
    if not default:
        columns["difference\n(95 % CI)"] = [_difference(c, analysis.decimals) for c in contrasts]
        columns[p_name(analysis)] = [_p_value(c) for c in contrasts]
    columns["paired seeds"] = [str(len(c.seeds)) for c in contrasts]
    columns["sd of differences"] = [number(c.sd, decimals) for c in contrasts]
    columns["minimum detectable difference"] = [number(c.detectable, decimals) for c in contrasts]
    columns["variance reduction by pairing"] = [times(c.pairing_gain) for c in contrasts]
    columns["speed-up in FLOPs"] = [
        _speed_up_in(analysis, c, lambda arm: arm.arm.flops_per_step) for c in contrasts
    ]
    columns["speed-up in seconds"] = [
        _speed_up_in(analysis, c, lambda arm: arm.seconds_per_step) for c in contrasts
    ]
    return Table(tuple(columns), tuple(zip(*columns.values(), strict=True)))


def _speed_up_in(
    analysis: Analysis, contrast: Contrast, cost: Callable[[ArmSummary], float]
) -> str:
    """The speed-up in another unit than steps, of which one step has a cost."""
    if contrast.pair is None:
        return times(math.nan)
    costs = {arm.arm.name: cost(arm) for arm in analysis.arms}
    arm, baseline = (costs[name] for name in contrast.pair)
    return times(contrast.speed_up * baseline / arm) if arm else times(math.nan)


def rates_table(analysis: Analysis) -> Table:
    """The learning-rate search: mean final loss at each rate, and the sensitivity to the rate.

    Args:
      analysis: the numbers.

    Returns:
      The table, one row per arm and one column per rate.
    """
    rates = sorted({rate for arm in analysis.arms for rate in arm.rates})
    decimals = f".{analysis.decimals}f"
    rows = [
        (
            arm.arm.name,
            *(number(arm.rates.get(rate, math.nan), decimals) for rate in rates),
            number(arm.learning_rate, "g"),
            number(arm.sensitivity, decimals),
        )
        for arm in analysis.arms
    ]
    return Table(
        ("arm", *(f"{rate:g}" for rate in rates), "chosen rate", "sensitivity"), tuple(rows)
    )


def difference_table(analysis: Analysis) -> Table:
    """The config fields in which each arm differs from the first, and its size and cost.

    Args:
      analysis: the numbers.

    Returns:
      The table, one row per field and one column per arm.
    """
    first, *others = arms = analysis.comparison.arms
    rows: list[tuple[str, ...]] = [
        (
            field,
            _shown(first.difference.get(field, _field(analysis.run_config, field))),
            *(_shown(arm.difference.get(field, "same")) for arm in others),
        )
        for field in sorted({field for arm in arms for field in arm.difference})
    ]
    rows.append(("hidden width", *(f"{arm.d_ff:,}" if arm.d_ff else "none" for arm in arms)))
    rows.append(("FLOPs per step", *(f"{arm.flops_per_step:,.0f}" for arm in arms)))
    return Table(("field", *(arm.name for arm in arms)), tuple(rows))


def _field(config: Mapping[str, Any], path: str) -> Any:
    """The value at a dotted path; "none" where the config has none."""
    value: Any = config
    for key in path.split("."):
        value = (
            cast(Mapping[str, Any], value).get(key, "none")
            if isinstance(value, Mapping)
            else "none"
        )
    return value


def _shown(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(str, cast(Iterable[object], value)))
    return str(value)


def literature_table(analysis: Analysis) -> Table | None:
    """Our differences from the first arm beside the published ones.

    Args:
      analysis: the numbers.

    Returns:
      The table; None where no paper has both arms, and for training losses, which papers do not
      give.
    """
    comparison = analysis.comparison
    if comparison.metric != "validation loss":
        return None
    first = comparison.first.name
    anchors = [anchor for anchor in ANCHORS if first in anchor.losses]
    rows = [
        (
            contrast.name,
            signed(contrast.mean, analysis.decimals),
            *(_published(anchor.losses, contrast.name, first) for anchor in anchors),
        )
        for contrast in analysis.contrasts
        if contrast.pair == (contrast.name, first) and contrast.seeds
        if any(contrast.name in anchor.losses for anchor in anchors)
    ]
    header = ("arm", f"here ({comparison.unit})", *(anchor.source for anchor in anchors))
    return Table(header, tuple(rows)) if rows else None


def _published(losses: Mapping[str, float], arm: str, first: str) -> str:
    return signed(losses[arm] - losses[first], 3) if arm in losses else "not reported"
