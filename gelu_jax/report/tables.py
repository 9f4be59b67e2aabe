"""The tables of a report: one content, three renderings (HTML, Markdown, LaTeX)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, cast

from gelu_jax.compare.analysis import Analysis, ArmSummary, Contrast
from gelu_jax.report.literature import ANCHORS
from gelu_jax.report.verdict import signed


@dataclass(frozen=True)
class Table:
    """A header and rows of plain text; a cell may have a second line."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def html(self) -> str:
        """The table as HTML, every cell escaped."""
        head = "".join(f'<th scope="col">{_html(cell)}</th>' for cell in self.header)
        body = "".join(f"<tr>{_html_row(row)}</tr>" for row in self.rows)
        table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        return f'<div class="scroll" tabindex="0">{table}</div>'

    def markdown(self) -> str:
        """The table as Markdown; a pipe in a cell is escaped."""
        rule = ("---", *("---:" for _ in self.header[1:]))
        return "\n".join(f"| {' | '.join(map(_markdown, row))} |" for row in (
            self.header, rule, *self.rows,
        ))  # fmt: skip

    def latex(self) -> str:
        """The table as LaTeX with booktabs rules."""
        head, *rows = (f"{' & '.join(map(_latex, row))} \\\\" for row in (self.header, *self.rows))
        columns = "l" + "r" * (len(self.header) - 1)
        lines = (
            f"\\begin{{tabular}}{{{columns}}}", "\\toprule", head, "\\midrule", *rows,
            "\\bottomrule", "\\end{tabular}",
        )  # fmt: skip
        return "\n".join(lines)


def results_table(analysis: Analysis) -> Table:
    """The main table: an arm in each row; differences and tests only where arms are compared."""
    comparison = analysis.comparison
    header = ["arm", "parameters", "learning rate", f"{comparison.metric}\n({comparison.unit})"]
    rows = [_arm_cells(analysis, arm) for arm in analysis.arms]
    if any(arm.accuracies for arm in analysis.arms):
        header.append("accuracy")
        rows = [[*row, _accuracy(a)] for row, a in zip(rows, analysis.arms, strict=True)]
    if analysis.contrasts:
        header += [f"difference to {comparison.first.name}\n(95 % interval)"]
        header += ["p (Holm)"] if comparison.protocol == "full" else []
        header += ["speed-up to target\n(95 % interval)"]
        contrasts = (None, *analysis.contrasts)
        rows = [[*r, *_contrast_cells(analysis, c)] for r, c in zip(rows, contrasts, strict=True)]
    header.append("ms per step")
    rows = [
        (*row, _or_dash(1000 * arm.seconds_per_step, ".2f"))
        for row, arm in zip(rows, analysis.arms, strict=True)
    ]
    return Table(tuple(header), tuple(rows))


def _arm_cells(analysis: Analysis, arm: ArmSummary) -> list[str]:
    mismatch = f"\n({signed(100 * arm.mismatch, 1)} %)" if arm.mismatch else ""
    decimals = f".{analysis.decimals}f"
    spread = f" ± {arm.sd:{decimals}}" if math.isfinite(arm.sd) else ""
    lost = f"\n({len(arm.diverged)} diverged)" if arm.diverged else ""
    return [
        arm.arm.name,
        f"{arm.arm.parameters:,}{mismatch}",
        _or_dash(arm.learning_rate, "g"),
        _or_dash(arm.mean, decimals) + spread + lost,
    ]


def _accuracy(arm: ArmSummary) -> str:
    if not arm.accuracies:
        return "–"
    return f"{100 * sum(arm.accuracies) / len(arm.accuracies):.2f} %"


def _contrast_cells(analysis: Analysis, contrast: Contrast | None) -> list[str]:
    full = analysis.comparison.protocol == "full"
    if contrast is None or not contrast.seeds:
        return ["–"] * (3 if full else 2)
    difference = signed(contrast.mean, analysis.decimals)
    if contrast.interval is not None:
        low, high = (signed(bound, analysis.decimals) for bound in contrast.interval)
        difference += f"\n({low} to {high})"
    tested = [f"{contrast.p_adjusted:.2g}"] if full else []
    return [difference, *tested, _speed_up(contrast)]


def _speed_up(contrast: Contrast) -> str:
    if math.isnan(contrast.speed_up):
        return "–"
    value = "missed" if contrast.speed_up == 0 else _times(contrast.speed_up)
    if contrast.speed_up_interval is None:
        return value
    low, high = ("missed" if b == 0 else f"{b:.2f}" for b in contrast.speed_up_interval)
    return value if low == high == "missed" else f"{value}\n({low} to {high})"


def contrasts_table(analysis: Analysis) -> Table:
    """What the design can see, a contrast in each row, and the speed-up in other units."""
    first = analysis.arms[0]
    header = (
        "arm", "pairs", "sd of differences", "smallest detectable", "variance gained by pairing",
        "speed-up in FLOPs", "speed-up in seconds",
    )  # fmt: skip
    rows = [
        (
            contrast.arm,
            str(len(contrast.seeds)),
            _or_dash(contrast.sd, f".{analysis.decimals}f"),
            _or_dash(contrast.detectable, f".{analysis.decimals}f"),
            _times(contrast.pairing_gain),
            _speed_up_in(contrast, first.arm.flops_per_step, arm.arm.flops_per_step),
            _speed_up_in(contrast, first.seconds_per_step, arm.seconds_per_step),
        )
        for contrast, arm in zip(analysis.contrasts, analysis.arms[1:], strict=True)
    ]
    return Table(header, tuple(rows))


def _speed_up_in(contrast: Contrast, first: float, arm: float) -> str:
    """The speed-up in a unit of which a step of each arm costs so much."""
    return _times(contrast.speed_up * first / arm) if arm else "–"


def rates_table(analysis: Analysis) -> Table:
    """The search of the learning rate: mean final loss at each rate, and the sensitivity to it."""
    rates = sorted({rate for arm in analysis.arms for rate in arm.rates})
    decimals = f".{analysis.decimals}f"
    rows = [
        (
            arm.arm.name,
            *(_or_dash(arm.rates.get(rate, math.nan), decimals) for rate in rates),
            _or_dash(arm.learning_rate, "g"),
            _or_dash(arm.sensitivity, decimals),
        )
        for arm in analysis.arms
    ]
    return Table(("arm", *(f"{rate:g}" for rate in rates), "chosen", "sensitivity"), tuple(rows))


def difference_table(analysis: Analysis) -> Table:
    """Which config fields each arm changes, against the first arm, and its matched width."""
    first, *others = arms = [arm.arm for arm in analysis.arms]
    rows: list[tuple[str, ...]] = []
    for field in sorted({field for arm in arms for field in arm.difference}):
        start = first.difference.get(field, _field(analysis.comparison.config, field))
        changed = (_shown(arm.difference.get(field, "·")) for arm in others)
        rows.append((field, _shown(start), *changed))
    rows.append(("hidden width", *(f"{arm.d_ff:,}" if arm.d_ff else "–" for arm in arms)))
    rows.append(("FLOPs per step", *(f"{arm.flops_per_step:,.0f}" for arm in arms)))
    return Table(("field", *(arm.name for arm in arms)), tuple(rows))


def _field(config: Mapping[str, Any], path: str) -> Any:
    """The value at a dotted path; a dash where the config has none."""
    value: Any = config
    for key in path.split("."):
        value = cast(Mapping[str, Any], value).get(key, "–") if isinstance(value, Mapping) else "–"
    return value


def literature_table(analysis: Analysis) -> Table | None:
    """Our gaps to the first arm beside the published ones; None where no paper has both arms."""
    if analysis.comparison.metric != "validation loss":
        return None  # what the papers give is held out
    first = analysis.arms[0].arm.name
    anchors = [anchor for anchor in ANCHORS if first in anchor.losses]
    rows = [
        (
            contrast.arm,
            _or_dash(contrast.mean, f"+.{analysis.decimals}f"),
            *(_gap(anchor.losses, contrast.arm, first) for anchor in anchors),
        )
        for contrast in analysis.contrasts
        if contrast.seeds and any(contrast.arm in anchor.losses for anchor in anchors)
    ]
    header = ("arm", f"here ({analysis.comparison.unit})")
    return Table((*header, *(a.source for a in anchors)), tuple(rows)) if rows else None


def _gap(losses: Mapping[str, float], arm: str, first: str) -> str:

    return signed(losses[arm] - losses[first], 3) if arm in losses else "–"


def _times(factor: float) -> str:
    return f"{factor:.2f} ×" if math.isfinite(factor) and factor > 0 else "–"


def _or_dash(value: float, form: str) -> str:
    return f"{value:{form}}".replace("-", "−") if math.isfinite(value) else "–"


def _shown(value: object) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(str, value))
    return str(value)


def _html_row(row: Sequence[str]) -> str:
    name, *cells = map(_html, row)
    return f'<th scope="row">{name}</th>' + "".join(f"<td>{cell}</td>" for cell in cells)


def _html(cell: str) -> str:
    first, *more = map(escape, cell.split("\n"))
    return "".join((first, *(f"<small>{line}</small>" for line in more)))


def _markdown(cell: str) -> str:
    return cell.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ")


_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "−": "$-$", "±": r"$\pm$", "×": r"$\times$", "–": "--", "·": r"$\cdot$", "≈": r"$\approx$",
    "<": "$<$", ">": "$>$",
}  # fmt: skip


def _latex(cell: str) -> str:
    return "".join(_LATEX.get(sign, sign) for sign in cell.replace("\n", " "))
