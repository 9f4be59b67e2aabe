"""The report as one self-contained page: it asks the network for nothing."""

import json

from markupsafe import Markup
from plotly.offline import get_plotlyjs

from gelu_jax.compare.analysis import Analysis
from gelu_jax.report.literature import ANCHORS
from gelu_jax.report.methods import methods
from gelu_jax.report.plots import MEASURES, plot_data
from gelu_jax.report.tables import (
    contrasts_table,
    difference_table,
    literature_table,
    rates_table,
    results_table,
)
from gelu_jax.report.templates import render
from gelu_jax.report.verdict import verdict


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
        config=json.dumps(config, indent=2, default=str, ensure_ascii=False),
        data=plot_data(analysis),
        plotly=Markup(get_plotlyjs()),
    )
