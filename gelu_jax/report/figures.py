"""Figures for a paper: the curves of a comparison, the laws of a ladder, an activation."""

import io
import math
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from gelu_jax.compare.analysis import Analysis, analyze
from gelu_jax.compare.curves import LOSSES, Band, band
from gelu_jax.compare.ladder_analysis import LadderAnalysis
from gelu_jax.compare.records import Comparison
from gelu_jax.report.plots import colour_of, law_curve, trend_line
from gelu_jax.report.verdict import is_default

COLOURS = (
    "#3d3d3d", "#0072b2", "#d55e00", "#009e73", "#aa4499", "#b8860b", "#56b4e9", "#cc6677",
)  # fmt: skip
"""Grey for the first arm, then colours that colour-blind readers distinguish (Okabe and Ito)."""

DASHES = (
    "solid",
    "solid",
    "solid",
    "solid",
    (0, (4, 1.5)),
    (0, (4, 1.5)),
    (0, (1, 1)),
    (0, (1, 1)),
)

_SEEDS_SHOWN = 4
"""Arms at most where the curve of every seed is drawn."""

_FEW = 8
"""Arms or differences that are drawn side by side, and arms that have a colour of their own."""

_LABEL = 40
"""Characters of a label that fit below the differences in one line."""

_STYLE: Any = {
    "font.family": "sans-serif", "font.size": 8, "axes.labelsize": 8, "axes.linewidth": 0.6,
    "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True,
    "xtick.labelsize": 7, "ytick.labelsize": 7, "xtick.major.width": 0.6, "ytick.major.width": 0.6,
    "legend.frameon": False, "legend.fontsize": 8, "savefig.dpi": 300,
    "text.parse_math": False, "svg.hashsalt": "gelu_jax", "pdf.fonttype": 42,
}  # fmt: skip


def curves(results: Analysis | Comparison) -> Figure:
    """Draws the curves of all arms and, where arms are compared, their paired differences.

        figure = curves(read_results(Path("runs/compare_activations")))
        figure.axes[0].set_yscale("log")
        figure.savefig("figure.pdf")

    Args:
      results: the record of a comparison, or its analysis.

    Returns:
      A matplotlib figure to restyle and save; 7 × 2.9 inches, or 4.2 wide without differences.
      Of more than eight arms or differences, these come below the curves, and make it higher.
    """
    analysis = results if isinstance(results, Analysis) else analyze(results)
    with rc_context(_STYLE):
        figure, (first, *others) = _panels(analysis)
        _draw_curves(first, analysis)
        for axes in others:
            _draw_differences(axes, analysis)
    return figure


def _panels(analysis: Analysis) -> tuple[Figure, list[Axes]]:
    """A figure with axes for the curves and, where arms are compared, for their differences."""
    rows = sum(bool(contrast.seeds) for contrast in analysis.contrasts)
    if max(rows, len(analysis.arms)) > _FEW:
        heights = [4.0, 0.6 + 0.16 * rows] if rows else [4.0]
        figure = Figure(figsize=(7.0, sum(heights)), layout="constrained")
        return figure, list(np.ravel(figure.subplots(len(heights), 1, height_ratios=heights)))
    widths = [1.7, 1.0] if rows else [1.0]
    figure = Figure(figsize=(7.0 if rows else 4.2, 2.9), layout="constrained")
    return figure, list(np.ravel(figure.subplots(1, len(widths), width_ratios=widths)))


def scaling(analysis: LadderAnalysis) -> Figure:
    """Draws the loss against compute with the fitted laws, and the speed-ups against compute.

        figure = scaling(analyze_ladder(read_ladder(Path("runs/scaling_of_variants"))[1]))
        figure.savefig("figure.pdf")

    Args:
      analysis: the numbers of a ladder.

    Returns:
      A matplotlib figure to restyle and save; 7 × 2.9 inches, or 4.2 wide with one arm.
    """
    with rc_context(_STYLE):
        alone = len(analysis.arms) < 2
        figure = Figure(figsize=(4.2 if alone else 7.0, 2.9), layout="constrained")
        left, *right = np.ravel(figure.subplots(1, 1 if alone else 2))
        _draw_laws(left, analysis)
        for axes in right:
            _draw_speed_ups(axes, analysis)
    return figure


def activation_figure(
    name: str,
    x: NDArray[Any],
    value: NDArray[Any],
    derivative: NDArray[Any],
    second: NDArray[Any],
) -> Figure:
    """Draws an activation, its derivative and its second derivative.

    Args:
      name: of the activation.
      x: an array (n,).
      value: f(x), likewise; the next two likewise.
      derivative: f′(x).
      second: f″(x).

    Returns:
      A matplotlib figure, 4.2 × 2.9 inches.
    """
    with rc_context(_STYLE):
        figure = Figure(figsize=(4.2, 2.9), layout="constrained")
        axes = figure.subplots()
        drawn = {name: value, "derivative": derivative, "second derivative": second}
        for index, (label, y) in enumerate(drawn.items()):
            axes.plot(x, y, label=label, linewidth=1.2, **_style(index))
        axes.set_xlim(-6, 6)
        near = np.concatenate([y[np.abs(x) <= 6] for y in drawn.values()])
        near = near[np.isfinite(near)]
        axes.set_ylim(max(-4, near.min() - 0.2), min(6, near.max() + 0.2))
        axes.set_xlabel("x")
        axes.legend()
    return figure


def _draw_laws(axes: Axes, analysis: LadderAnalysis) -> None:
    mean = analysis.losses.mean(0)
    for index, name in enumerate(analysis.arms):
        colour, cost = COLOURS[index % len(COLOURS)], analysis.costs["FLOPs"][index]
        seeds = analysis.losses[:, index]
        axes.plot(
            np.tile(cost, len(seeds)), seeds.ravel(), "o", ms=2, mew=0, color=colour, alpha=0.3
        )
        axes.plot(cost, mean[index], "o", ms=4, color=colour)
        curve = law_curve(analysis, "FLOPs", index)
        axes.plot(curve["cost"], curve["loss"], **_style(index), lw=1.2, label=name)
    comparison = analysis.rungs[0].comparison
    axes.set(xscale="log", yscale="log", xlabel="training FLOPs of a run")
    axes.set_ylabel(f"final {comparison.metric} ({comparison.unit})")
    _plain_ticks(axes)
    axes.legend(loc="upper right", handlelength=1.6)


def _draw_speed_ups(axes: Axes, analysis: LadderAnalysis) -> None:
    cost, speed_ups = analysis.costs["FLOPs"][0], analysis.speed_ups["FLOPs"]
    step = (cost[-1] / cost[0]) ** 0.015  # arms side by side, not one interval on another
    for index, speed_up in enumerate(speed_ups, 1):
        colour = COLOURS[index % len(COLOURS)]
        beside = cost * step ** (index - (len(speed_ups) + 1) / 2)
        axes.plot(beside, [at.value for at in speed_up.at_rungs], "o", ms=4, color=colour)
        for x, at in zip(beside, speed_up.at_rungs, strict=True):
            if at.interval is not None:
                axes.plot((x, x), at.interval, color=colour, lw=1)
        axes.plot(cost, trend_line(speed_up, cost), **_style(index), lw=1.2, label=speed_up.arm)
    axes.axhline(1, color=COLOURS[0], lw=0.8)
    axes.set(xscale="log", yscale="log", xlabel="training FLOPs of a run")
    axes.set_ylabel(f"speed-up in FLOPs over {analysis.arms[0]}")
    _plain_ticks(axes)


def _plain_ticks(axes: Axes) -> None:
    """Numbers at a few places of a short logarithmic axis, and powers of ten without TeX."""
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0e}")
    low, high = axes.get_ylim()
    ticks = np.asarray(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high))
    ticks = ticks[(low < ticks) & (ticks < high)]
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.grid(axis="y", lw=0.4, alpha=0.4)


def saved(figure: Figure) -> dict[str, bytes]:
    """A figure as files that hold no date, so that the same figure gives the same bytes.

    Args:
      figure: such as `curves` gives.

    Returns:
      Its bytes as "png" (300 dpi), "svg" and "pdf".
    """
    dates = {"png": None, "svg": {"Date": None}, "pdf": {"CreationDate": None}}
    contents: dict[str, bytes] = {}
    with rc_context(_STYLE):
        for kind, metadata in dates.items():
            file = io.BytesIO()
            figure.savefig(file, format=kind, metadata=metadata)
            contents[kind] = file.getvalue()
    return contents


def _style(index: int) -> dict[str, Any]:
    """A colour and dashes; arms of one colour have other dashes."""
    dashes = DASHES[index] if index < _FEW else (0, (6, 1, *(1, 1) * (index // _FEW)))
    return {"color": COLOURS[index % _FEW], "linestyle": dashes}


def _draw_curves(axes: Axes, analysis: Analysis) -> None:
    comparison = analysis.comparison
    bands: list[Band] = []
    curve = LOSSES[comparison.metric]
    for index, arm in enumerate(comparison.arms):
        runs = comparison.runs_of(arm.name)
        finished = [run for run in runs if run.status == "finished"]
        lost = [run for run in runs if run.status != "finished"]
        for run in finished if len(finished) > 1 and len(comparison.arms) <= _SEEDS_SHOWN else ():
            points = curve(run)
            axes.plot(points.steps, points.values, **_style(index), lw=0.4, alpha=0.3)
        for run in lost:
            points, colour = curve(run), COLOURS[index % len(COLOURS)]
            label = (
                None
                if finished or run is not lost[0]
                else f"{arm.name} ({_STATUS.get(run.status, run.status)})"
            )
            axes.plot(points.steps, points.values, ":", color=colour, lw=0.8, label=label)
        if drawn := band([curve(run) for run in finished]):
            bands.append(drawn)
            axes.plot(drawn.steps, drawn.mean, **_style(index), lw=1.5, label=arm.name)
            axes.fill_between(
                drawn.steps, drawn.mean - drawn.sd, drawn.mean + drawn.sd,
                color=COLOURS[index % len(COLOURS)], alpha=0.15, lw=0,
            )  # fmt: skip
    axes.set(xlabel="training step", ylabel=f"{comparison.metric} ({comparison.unit})")
    axes.grid(axis="y", lw=0.4, alpha=0.4)
    many = len(comparison.arms) > _FEW
    handles, names = axes.get_legend_handles_labels()
    if many and handles:
        place: Any = {"loc": "outside upper center", "ncols": 4 - (max(map(len, names)) > 20)}
        axes.figure.legend(handles, names, **place, fontsize=7)
    elif handles:
        axes.legend(loc="upper right", handlelength=1.6)
    if bands:
        last, several = max(float(drawn.steps[-1]) for drawn in bands), len(comparison.arms) > 1
        room = 1 + 0.022 * max(map(len, names)) if many else 1.2  # for the names of the lines
        axes.set_xlim(0, last * (room if several else 1.0))
        axes.set_ylim(*_close_range(bands))
        axes.set_xticks([tick for tick in axes.get_xticks() if 0 <= tick <= last])
        if several:
            _label_ends(axes, last, longest=26 if many else 13)


_STATUS = {"stopped": "stopped early"}


def _label_ends(axes: Axes, last: float, longest: int) -> None:
    """Writes the name of each line beside its end, apart where they would overlap."""
    low, high = axes.get_ylim()
    named = [line for line in axes.lines if not str(line.get_label()).startswith("_")]
    ends = sorted(((float(np.asarray(n.get_ydata())[-1]), n) for n in named), key=lambda e: e[0])
    least = -math.inf
    for end, line in ends:
        if low <= end <= high:
            at, name = max(end, least), str(line.get_label())
            label = axes.annotate(
                name if len(name) <= longest else f"{name[: longest - 1]}…", (last, at), (3, 0),
                textcoords="offset points", va="center", fontsize=7, color=line.get_color(),
            )  # fmt: skip
            label.set_in_layout(False)  # it is inside the axes
            least = at + (high - low) * 0.045


def _close_range(bands: list[Band]) -> tuple[float, float]:
    """From the lowest mean − sd to the highest mean at a fifth of the training, with a margin."""
    low = min(float(np.nanmin(drawn.mean - np.nan_to_num(drawn.sd))) for drawn in bands)
    early = [drawn.mean[np.searchsorted(drawn.steps, drawn.steps[-1] / 5)] for drawn in bands]
    high = max(map(float, early))
    margin = 0.05 * (high - low) or 0.1
    return low - margin, high + margin


def _draw_differences(axes: Axes, analysis: Analysis) -> None:
    comparison = analysis.comparison
    shown = [contrast for contrast in analysis.contrasts if contrast.seeds]
    for row, contrast in enumerate(shown):
        colour = COLOURS[colour_of(analysis, contrast) % len(COLOURS)]
        count = len(contrast.seeds)
        rows = row + (np.linspace(-0.12, 0.12, count) if count > 1 else np.zeros(1))
        axes.plot(contrast.differences, rows, "o", ms=2.5, mew=0, color=colour, alpha=0.4)
        axes.plot(contrast.mean, row, "o", ms=5, color=colour)
        if contrast.interval is not None:
            axes.plot(contrast.interval, (row, row), color=colour, lw=1.5)
    axes.axvline(0, color=COLOURS[0], lw=0.8)
    baseline = f" from {comparison.first.name}" if is_default(analysis) else ""
    label = f"difference{baseline} ({comparison.unit})"
    axes.set(
        xlabel=label if len(label) <= _LABEL else label.replace(" (", "\n("),
        yticks=range(len(shown)),
        yticklabels=[contrast.name for contrast in shown],
        ylim=(len(shown) - 0.4, -0.6),
    )
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", lw=0.4, alpha=0.4)
