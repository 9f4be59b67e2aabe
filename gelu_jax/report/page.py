"""The report as one self-contained page: it asks the network for nothing."""

import json
from collections.abc import Sequence

from markupsafe import Markup
from plotly.offline import get_plotlyjs

from gelu_jax.compare.analysis import Analysis
from gelu_jax.compare.config import CompareConfig
from gelu_jax.compare.ladder_analysis import LadderAnalysis
from gelu_jax.report.ladder_tables import laws_table, rungs_table, speed_up_table
from gelu_jax.report.ladder_verdict import ladder_verdict
from gelu_jax.report.literature import ANCHORS, findings
from gelu_jax.report.methods import ladder_methods, methods
from gelu_jax.report.plots import MEASURES, ladder_plot_data, plot_data
from gelu_jax.report.tables import (
    contrasts_table,
    difference_table,
    literature_table,
    rates_table,
    results_table,
)
from gelu_jax.report.templates import render
from gelu_jax.report.verdict import verdict
from gelu_jax.training.config import to_dict


def page(analysis: Analysis) -> str:
    """The whole page.

    Args:
      analysis: the numbers, with the comparison that they were computed from.

    Returns:
      HTML in which every name and value from outside is escaped; about 5 MB, most of it Plotly.
    """
    config = analysis.comparison.config
    return render(
        "report.html",
        comparison=analysis.comparison,
        analysis=analysis,
        verdict=verdict(analysis),
        methods=methods(analysis),
        measures={key: title for key, (title, _) in MEASURES.items()},
        results=results_table(analysis),
        contrasts=contrasts_table(analysis),
        rates=rates_table(analysis),
        differences=difference_table(analysis),
        literature=literature_table(analysis),
        anchors=ANCHORS,
        findings=findings([arm.arm.name for arm in analysis.order]),
        config=json.dumps(config, indent=2, default=str, ensure_ascii=False),
        data=plot_data(analysis),
        plotly=Markup(get_plotlyjs()),
    )


def ladder_page(
    analysis: LadderAnalysis, config: CompareConfig, name: str, command: str, places: Sequence[str]
) -> str:
    """The whole page of a ladder.

    Args:
      analysis: the numbers.
      config: of the ladder.
      name: of its directory.
      command: what repeats it.
      places: of the report of each rung, relative to this page.

    Returns:
      HTML, as by `page`.
    """
    return render(
        "ladder.html",
        title=name,
        description=config.description,
        analysis=analysis,
        verdict=ladder_verdict(analysis),
        methods=ladder_methods(analysis, config),
        speed_ups=speed_up_table(analysis),
        laws=laws_table(analysis),
        rungs=rungs_table(analysis),
        literature=literature_table(analysis.rungs[-1]),
        findings=findings(analysis.arms),
        command=command,
        places=places,
        config=json.dumps(to_dict(config), indent=2, default=str, ensure_ascii=False),
        data=ladder_plot_data(analysis),
        plotly=Markup(get_plotlyjs()),
    )
