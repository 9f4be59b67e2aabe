"""The report as one self-contained page: it asks the network for nothing."""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

from plotly.offline import get_plotlyjs

from gelu_jax.compare.analysis import Analysis
from gelu_jax.compare.curves import (
    CurvePoints,
    accuracy_curve,
    band,
    final_loss,
    training_curve,
    validation_curve,
)
from gelu_jax.compare.records import Comparison
from gelu_jax.report.literature import ANCHORS
from gelu_jax.report.methods import methods
from gelu_jax.report.tables import (
    contrasts_table,
    difference_table,
    literature_table,
    rates_table,
    results_table,
)
from gelu_jax.report.verdict import Verdict, counted, verdict
from gelu_jax.runs.record import Run

MEASURES = {
    "validation": ("Validation loss", validation_curve),
    "training": ("Training loss", training_curve),
    "accuracy": ("Accuracy", accuracy_curve),
}


def page(analysis: Analysis) -> str:
    """The whole page as HTML; every name and value from outside is escaped."""
    comparison, words = analysis.comparison, verdict(analysis)
    table, gaps = results_table(analysis), literature_table(analysis)
    return Template(_asset("report.html")).substitute(
        title=escape(comparison.name),
        kicker=escape(_kicker(comparison)),
        description=escape(comparison.description),
        verdict=_verdict(words),
        measures=_measures(analysis),
        arms=_arm_toggles(analysis),
        results=table.html(),
        contrasts=contrasts_table(analysis).html(),
        rates=rates_table(analysis).html(),
        literature=gaps.html() if gaps else "",
        settings=escape(" ".join(f"{a.source}: {a.setting}." for a in ANCHORS)),
        differences=difference_table(analysis).html(),
        methods=_prose(methods(analysis)),
        markdown=escape(table.markdown()),
        latex=escape(table.latex()),
        config=escape(json.dumps(comparison.config, indent=2, default=str, ensure_ascii=False)),
        environment=_facts(comparison.environment, "") + _facts(comparison.data, "data "),
        command=escape(comparison.command),
        shown=" ".join(_shown(analysis)),
        style=_asset("report.css"),
        plotly=get_plotlyjs(),
        data=_script_json(_data(analysis)),
        script=_asset("report.js"),
    )


def _asset(name: str) -> str:
    return files("gelu_jax.report").joinpath("assets", name).read_text(encoding="utf-8")


def _shown(analysis: Analysis) -> list[str]:
    """Which optional sections the page has; the style sheet hides the others."""
    present = {
        "has-contrasts": any(contrast.seeds for contrast in analysis.contrasts),
        "has-rates": any(len(arm.rates) > 1 for arm in analysis.arms),
        "has-health": any(
            _health_data(analysis.comparison.runs_of(arm.arm.name)) for arm in analysis.arms
        ),
        "has-literature": literature_table(analysis) is not None,
        "has-arms": len(analysis.arms) > 1,
    }
    return [name for name, is_there in present.items() if is_there]


def _verdict(words: Verdict) -> str:
    sentences = "".join(f"<li>{_led(sentence)}</li>" for sentence in words.sentences)
    notes = "".join(f"<li>{escape(note)}</li>" for note in words.notes)
    parts = [f"<h1>{escape(words.headline)}</h1>", f'<ul class="sentences">{sentences}</ul>']
    parts += [f'<p class="order">{escape(words.order)}</p>'] if words.order else []
    parts += [f'<ul class="notes">{notes}</ul>'] if words.notes else []
    return "\n".join(parts)


def _led(sentence: str) -> str:
    """A sentence whose leading name, up to ": ", is set in bold."""
    name, colon, rest = sentence.partition(": ")
    return f"<b>{escape(name)}</b>&ensp;{_prose(rest)}" if colon else _prose(sentence)


def _prose(text: str) -> str:
    """Escaped text whose numbers stay on one line with their signs and units."""
    kept = escape(text).replace(" = ", "&nbsp;=&nbsp;")
    return kept.replace(" %", "&nbsp;%").replace(" ×", "&nbsp;×")


def _kicker(comparison: Comparison) -> str:
    protocol = "full protocol" if comparison.protocol == "full" else comparison.protocol
    seeds = len({run.seed for run in comparison.runs if run.purpose == "report"})
    arms = len(comparison.arms)
    size = f"{counted(arms, 'arm')} × {counted(seeds, 'seed')}"
    return f"{comparison.name} · {protocol} · {size}"


def _measures(analysis: Analysis) -> str:
    comparison = analysis.comparison
    has_accuracy = any(run.validation_accuracy for run in comparison.runs)
    return "".join(
        f'<label><input type="radio" name="measure" value="{key}"'
        f"{' checked' if title.lower() == comparison.metric else ''}><span>{title}</span></label>"
        for key, (title, _) in MEASURES.items()
        if key != "accuracy" or has_accuracy
    )


def _arm_toggles(analysis: Analysis) -> str:
    return "".join(
        f'<label class="chip" style="--arm: var(--arm-{index % 8})">'
        f'<input type="checkbox" name="arm" value="{index}" checked>'
        f"<span>{escape(arm.arm.name)}</span></label>"
        for index, arm in enumerate(analysis.arms)
    )


def _facts(facts: Mapping[str, str], prefix: str) -> str:
    return "".join(
        f"<dt>{escape(prefix + key)}</dt><dd>{escape(value)}</dd>" for key, value in facts.items()
    )


def _script_json(data: object) -> str:
    """JSON that may stand inside a script element: no "<" ends it early."""
    return json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _data(analysis: Analysis) -> dict[str, Any]:
    """What the page's script draws from; numbers in six digits, null where not finite."""
    comparison = analysis.comparison
    return {
        "unit": comparison.unit,
        "tokensPerStep": comparison.tokens_per_step,
        "decimals": analysis.decimals,
        "first": comparison.first.name,
        "arms": [_arm_data(analysis, index) for index in range(len(analysis.arms))],
        "contrasts": [
            {
                "arm": index,
                "seeds": contrast.seeds,
                "differences": _numbers(contrast.differences),
                "mean": _number(contrast.mean),
                "interval": _numbers(contrast.interval or ()),
            }
            for index, contrast in enumerate(analysis.contrasts, start=1)
            if contrast.seeds
        ],
    }


def _arm_data(analysis: Analysis, index: int) -> dict[str, Any]:
    arm = analysis.arms[index]
    runs = analysis.comparison.runs_of(arm.arm.name)
    tuning = analysis.comparison.runs_of(arm.arm.name, "tuning")
    metric = analysis.comparison.metric
    return {
        "name": arm.arm.name,
        "flopsPerStep": _number(arm.arm.flops_per_step),
        "measures": {key: _measure_data(runs, curve) for key, (_, curve) in MEASURES.items()},
        "rates": [[_number(rate), _number(loss)] for rate, loss in sorted(arm.rates.items())],
        "tried": [
            [r.learning_rate, _number(final_loss(r, metric)), r.seed, r.status] for r in tuning
        ],
        "chosen": _number(arm.learning_rate),
        "health": _health_data(runs),
    }


def _measure_data(runs: Sequence[Run], curve: Callable[[Run], CurvePoints]) -> dict[str, Any]:
    middle = band([curve(run) for run in runs if run.status == "finished"])
    return {
        "band": middle
        and {
            "steps": middle.steps.tolist(),
            "seconds": _numbers(middle.seconds),
            "mean": _numbers(middle.mean),
            "sd": _numbers(middle.sd),
        },
        "runs": [{"seed": r.seed, "status": r.status, **_curve_data(curve(r))} for r in runs],
    }


def _curve_data(points: CurvePoints) -> dict[str, Any]:
    return {
        "steps": points.steps,
        "seconds": _numbers(points.seconds),
        "values": _numbers(points.values),
    }


def _health_data(runs: Sequence[Run]) -> dict[str, Any]:
    """Name → steps and layers × evaluations, the mean over the seeds that finished."""
    finished = [run for run in runs if run.status == "finished"]
    names = finished[0].health if finished else {}
    found: dict[str, Any] = {}
    for name in names:
        layers = range(len(names[name][0]) if names[name] else 0)
        bands = [band([_layer(run, name, layer) for run in finished]) for layer in layers]
        kept = [middle for middle in bands if middle]
        if kept:
            means = [_numbers(middle.mean) for middle in kept]
            found[name] = {"steps": kept[0].steps.tolist(), "layers": means}
    return found


def _layer(run: Run, name: str, layer: int) -> CurvePoints:
    values = tuple(at[layer] for at in run.health[name])
    return CurvePoints(run.eval_steps, run.seconds, values)


def _numbers(values: Iterable[float]) -> list[float | None]:
    return [_number(value) for value in values]


def _number(value: float) -> float | None:
    return float(f"{value:.6g}") if math.isfinite(value) else None
