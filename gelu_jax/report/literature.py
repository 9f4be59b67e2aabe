"""Published losses of the same variants, to show beside our own."""

from collections.abc import Collection, Mapping
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


@dataclass(frozen=True)
class Finding:
    """What somebody reports of variants, where it is no table of losses.

    Attributes:
      source: who, and where.
      variants: those it is about.
      says: the finding, in one sentence.
    """

    source: str
    variants: frozenset[str]
    says: str


FINDINGS = (
    Finding(
        "So et al. 2021 (Primer)",
        frozenset({"relu", "gelu", "relu_squared"}),
        "By speed-up to the baseline's final quality, as here: squared ReLU is one of the two "
        "changes that make the most of it; GELU's speed-up changes sign between code bases "
        "(1.23 ×, 0.97 ×).",
    ),
    Finding(
        "nanochat's log",
        frozenset({"relu_squared", "swiglu"}),
        "At matched parameters ReLU² was ahead of SwiGLU by steps, by FLOPs and by wall clock, "
        "against Shazeer's order.",
    ),
    Finding(
        "llm.c, issue 755",
        frozenset({"gelu", "swiglu"}),
        "SwiGLU's advantage over GELU vanished once parameters were matched.",
    ),
)
"""Findings to show where at least two of their variants are compared."""


def findings(arms: Collection[str]) -> tuple[Finding, ...]:
    """The findings about at least two of the arms.

    Args:
      arms: their names, which are those of the variants.

    Returns:
      The findings; nothing where none is about these arms.

    >>> [finding.source for finding in findings(["swiglu", "relu_squared"])]
    ["nanochat's log"]
    """
    return tuple(f for f in FINDINGS if len(f.variants.intersection(arms)) > 1)
