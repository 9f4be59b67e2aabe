"""The methods paragraph: what was done, in words, from the records alone."""

from collections.abc import Iterator, Mapping
from typing import Any

from gelu_jax.compare.analysis import ALPHA, Analysis
from gelu_jax.compare.climb import carried_rates
from gelu_jax.compare.config import CompareConfig
from gelu_jax.compare.family import EXACT_PAIRS, MOST_ARMS
from gelu_jax.compare.ladder_analysis import STEADY, LadderAnalysis
from gelu_jax.report.templates import render
from gelu_jax.report.verdict import is_default

_SAID = {"steps", "seed", "learning_rate"}  # in sentences of their own


def methods(analysis: Analysis) -> str:
    """Says what was trained, on what, how rates were chosen and which statistics were used.

    Args:
      analysis: the numbers, with the comparison that they were computed from.

    Returns:
      One paragraph, from the template `methods.txt`.
    """
    comparison = analysis.comparison
    reported = [run for run in comparison.runs if run.purpose == "report"]
    tuning = [run for run in comparison.runs if run.purpose == "tuning"]
    return _paragraph(
        "methods.txt",
        analysis=analysis,
        comparison=comparison,
        reported=reported,
        tuning=tuning,
        is_held_out={run.seed for run in reported}.isdisjoint(run.seed for run in tuning),
        rates=[f"{rate:g}" for rate in sorted({run.learning_rate for run in tuning or reported})],
        steps=max((run.train_steps[-1] for run in reported if run.train_steps), default=0),
        stopped=sum(run.status == "stopped" for run in comparison.runs),
        patience=analysis.run_config.get("early_stopping_patience") or "so many",
        settings=dict(_settings(analysis.run_config)),
        mismatch=max(abs(arm.mismatch) for arm in analysis.arms),
        alpha=ALPHA,
        is_default=is_default(analysis),
        is_exact=analysis.looks[-1].pairs <= EXACT_PAIRS,
        has_constraints=len(comparison.arms) <= MOST_ARMS,
        levels=[f"{look.level:.2g}" for look in analysis.looks],
        gains=[
            f"{contrast.pairing_gain:.1f} ({contrast.name})"
            for contrast in analysis.contrasts
            if contrast.pairing_gain < 1e6
        ],
    )


def _paragraph(template: str, **values: object) -> str:
    return " ".join(render(template, **values).split())


def _settings(config: Mapping[str, Any]) -> Iterator[tuple[str, list[str]]]:
    """The plain fields of each section of a config, and last those outside of any."""
    sections = {key: value for key, value in config.items() if isinstance(value, Mapping)}
    for title, section in {**sections, "other settings": config}.items():
        fields = [
            f"{key} = {value:g}" if isinstance(value, float) else f"{key} = {value}"
            for key, value in section.items()
            if isinstance(value, (str, int, float)) and value != "" and key not in _SAID
        ]
        if fields:
            yield title, fields


def ladder_methods(analysis: LadderAnalysis, config: CompareConfig) -> str:
    """Says what a ladder trained, by which rules it grew, and how the laws were fitted.

    Args:
      analysis: the numbers.
      config: of the ladder.

    Returns:
      One paragraph, from the template `ladder_methods.txt`.
    """
    comparisons = [rung.comparison for rung in analysis.rungs]
    is_tuned = all(len(arm.rates) > 1 for arm in analysis.rungs[0].arms)
    tuned = min(len(comparisons), config.ladder.tuned_rungs) if config.ladder and is_tuned else 0
    return _paragraph(
        "ladder_methods.txt",
        analysis=analysis,
        config=config,
        names=[arm.name for arm in comparisons[0].arms],
        sizes=[f"{size:,}" for size in analysis.sizes],
        tuned=tuned,
        exponent=carried_rates(comparisons[:tuned], analysis.sizes).exponent if tuned else 0.0,
        max_seeds=config.max_seeds or analysis.looks[0].pairs,
        alpha=ALPHA,
        steady=STEADY,
    )
