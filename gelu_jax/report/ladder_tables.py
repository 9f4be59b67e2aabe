"""The tables of a ladder's report."""

import numpy as np

from gelu_jax.compare.climb import short
from gelu_jax.compare.ladder_analysis import Estimate, LadderAnalysis, SpeedUp, Unit
from gelu_jax.report.tables import Table
from gelu_jax.report.wording import number, signed


def speed_up_table(analysis: LadderAnalysis) -> Table:
    """The effective speed-up of each arm at each rung, its mean and its slope, in each unit.

    Args:
      analysis: the numbers.

    Returns:
      The table, one row for each arm but the first, and unit.
    """
    rows = [
        _speed_up_row(unit, speed_ups[index])
        for index in range(len(analysis.arms) - 1)
        for unit, speed_ups in analysis.speed_ups.items()
    ]
    sizes = (f"at {short(size)}" for size in analysis.sizes)
    return Table(("arm", "in", "mean", "slope per decade", *sizes), tuple(rows))


def _speed_up_row(unit: Unit, speed_up: SpeedUp) -> tuple[str, ...]:
    return (
        speed_up.arm,
        unit,
        _estimate(speed_up.mean, ".2f", " ×"),
        _estimate(speed_up.slope, "+z.3f"),
        *(_estimate(at, ".2f", " ×") for at in speed_up.at_rungs),
    )


def _estimate(estimate: Estimate, form: str, unit: str = "") -> str:
    value = number(estimate.value, form)
    value += unit if value != "none" else ""
    if estimate.interval is None:
        return value
    low, high = (number(bound, form) for bound in estimate.interval)
    return f"{value}\n({low} to {high})"


def laws_table(analysis: LadderAnalysis) -> Table:
    """The law of each arm in FLOPs, and how far those of the other rungs are from the last one.

    Args:
      analysis: the numbers.

    Returns:
      The table, one row per arm.
    """
    unit = analysis.rungs[0].comparison.unit
    laws, mean = analysis.laws["FLOPs"], analysis.losses.mean(0)
    columns = {
        "arm": list(analysis.arms),
        f"L∞\n({unit})": [_estimate(floor, ".3f") for floor in analysis.floors],
        "A": [f"{law.scale:.3f}" for law in laws],
        "α": [_estimate(exponent, ".3f") for exponent in analysis.exponents],
        "largest residual": [
            number(float(np.abs(law.loss(cost) - measured).max()), ".4f")
            for law, cost, measured in zip(laws, analysis.costs["FLOPs"], mean, strict=True)
        ],
    }
    if analysis.held_out is not None:
        size = short(analysis.sizes[-1])
        columns[f"predicted − measured\nat {size}, from the others"] = [
            signed(float(error), 4) for error in analysis.held_out[:, -1]
        ]
    return Table(tuple(columns), tuple(zip(*columns.values(), strict=True)))


def rungs_table(analysis: LadderAnalysis) -> Table:
    """What is trained at each rung, and the loss and learning rate of each arm.

    Args:
      analysis: the numbers.

    Returns:
      The table, one row per rung.
    """
    rows: list[tuple[str, ...]] = []
    for at, rung in enumerate(analysis.rungs):
        summaries = {arm.arm.name: arm for arm in rung.arms}
        cells = (
            f"{number(arm.mean, f'.{rung.decimals}f')}\n(rate {arm.learning_rate:g}"
            f"{', tuned' if len(arm.rates) > 1 else ''})"
            for arm in summaries.values()
        )
        rows.append((
            f"{rung.comparison.first.parameters:,}",
            short(float(analysis.costs["tokens"][0, at])),
            f"{rung.run_config['batch_size']:,}" if "batch_size" in rung.run_config else "none",
            f"{analysis.costs['FLOPs'][0, at]:.1e}",
            *cells,
        ))  # fmt: skip
    names = (arm.arm.name for arm in analysis.rungs[0].arms)
    return Table(("parameters", "tokens", "batch", "FLOPs", *names), tuple(rows))
