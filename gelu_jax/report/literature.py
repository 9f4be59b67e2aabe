"""Published losses of the same variants, to show beside our own."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Anchor:
    """The losses of one table of one paper.

    Attributes:
      source: the paper, and which of its runs.
      setting: model, corpus and protocol.
      losses: variant → loss in nats per token of the paper's own corpus and vocabulary.
    """

    source: str
    setting: str
    losses: Mapping[str, float]


SHAZEER_65K = Anchor(
    "Shazeer 2020, 65,536 steps",
    "T5-base on C4, held-out log-perplexity, learning rate not tuned per variant",
    {
        "relu": 1.997, "gelu": 1.983, "silu": 1.994, "glu": 1.982, "bilinear": 1.960,
        "geglu": 1.942, "swiglu": 1.944, "reglu": 1.953,
    },
)  # fmt: skip

SHAZEER_524K = Anchor(
    "Shazeer 2020, 524,288 steps",
    "T5-base on C4, held-out log-perplexity, learning rate not tuned per variant",
    {
        "relu": 1.677, "gelu": 1.679, "silu": 1.683, "glu": 1.663, "bilinear": 1.648,
        "geglu": 1.633, "swiglu": 1.636, "reglu": 1.645,
    },
)  # fmt: skip

NARANG = Anchor(
    "Narang et al. 2021",
    "T5, 223M parameters, final loss",
    {
        "relu": 1.838, "gelu": 1.838, "silu": 1.847, "elu": 1.932, "glu": 1.814,
        "geglu": 1.792, "reglu": 1.803, "swiglu": 1.789, "bilinear": 1.798,
    },
)  # fmt: skip

ANCHORS = (SHAZEER_65K, SHAZEER_524K, NARANG)
