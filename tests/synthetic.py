"""Made-up comparisons with known truth, and their analyses, for the tests of compare and report."""

from dataclasses import replace
from functools import cache

import numpy as np

from gelu_jax.compare.analysis import Analysis, analyze
from gelu_jax.compare.records import Arm, Comparison
from gelu_jax.runs.record import Run

STEPS = 2000
EVALUATIONS = tuple(range(0, STEPS + 1, 50))
LOGGED = tuple(range(20, STEPS + 1, 20))
FINAL_LOSS = {"relu": 2.12, "gelu": 2.104, "swiglu": 2.073, "geglu": 2.080, "silu": 2.125}
ARMS = {
    "relu": Arm("relu", {}, 119_872, 1.53e9, 256),
    "gelu": Arm("gelu", {"model.variant": "gelu"}, 119_872, 1.53e9, 256),
    "swiglu": Arm("swiglu", {"model.variant": "swiglu", "model.d_ff": 176}, 121_920, 1.56e9, 176),
    "geglu": Arm("geglu", {"model.variant": "geglu", "model.d_ff": 176}, 121_920, 1.56e9, 176),
    "silu": Arm("silu", {"model.variant": "silu"}, 119_872, 1.53e9, 256),
}


def run(
    arm: str,
    seed: int,
    rate: float,
    purpose: str = "report",
    status: str = "finished",
    noise: float = 0.004,
) -> Run:
    """One made-up run: a seed's own level, shared by all arms, plus noise of its own."""
    shared = np.random.default_rng(seed).normal(0, 0.02)
    own = np.random.default_rng([seed, *arm.encode()])
    off = 0.07 * np.log10(rate / 3e-3) ** 2
    end = FINAL_LOSS[arm] + shared + own.normal(0, noise) + off
    steps = np.array(EVALUATIONS)
    decay = 3.3 * np.exp(-steps / 110) + 0.45 * np.exp(-steps / 620)
    loss = end - 0.45 * np.exp(-STEPS / 620) + decay + own.normal(0, 0.003, steps.size)
    loss[-1] = end
    seconds = 0.0061 * steps * (1.09 if arm.endswith("glu") else 1.0) * own.uniform(0.97, 1.05)
    train = np.interp(LOGGED, steps, loss) - 0.06 + own.normal(0, 0.03, len(LOGGED))
    if status == "diverged":
        loss[12:], train[30:] = np.nan, np.nan
    keep = len(steps) if status not in ("interrupted", "stopped") else 15
    layers = np.array([[0.05, 0.12]])
    dead = layers * (1 - np.exp(-steps[:keep, None] / 400)) * (0.2 if arm != "relu" else 1.0)
    largest = 1.5 + (layers * 30) * np.sqrt(steps[:keep, None] / STEPS)
    return Run(
        arm=arm,
        seed=seed,
        learning_rate=rate,
        purpose=purpose,  # type: ignore[arg-type]
        status=status,  # type: ignore[arg-type]
        train_steps=LOGGED,
        train_loss=tuple(map(float, train)),
        eval_steps=EVALUATIONS[:keep],
        validation_loss=tuple(map(float, loss[:keep])),
        seconds=tuple(map(float, seconds[:keep])),
        validation_accuracy=tuple(float(np.exp(-x / 3)) for x in loss[:keep]),
        compile_seconds=6.5,
        health={
            "share of dead units": tuple(tuple(map(float, row)) for row in dead),
            "largest |h|": tuple(tuple(map(float, row)) for row in largest),
        },
    )


def comparison(
    arms: tuple[str, ...] = ("relu", "gelu", "swiglu"),
    seeds: int = 8,
    rates: tuple[float, ...] = (1e-3, 3e-3, 1e-2),
    protocol: str = "full",
    noise: float = 0.004,
) -> Comparison:
    """A made-up comparison: seeds reported from 100 on, rates tuned on seeds 0 and 1."""
    reported = [run(arm, 100 + seed, 3e-3, noise=noise) for arm in arms for seed in range(seeds)]
    tuning = [run(a, s, rate, "tuning") for a in arms for rate in rates for s in (0, 1)]
    return Comparison(
        name="synthetic",
        description="Synthetic data for the tests of the report: no model was trained.",
        unit="nats per byte",
        tokens_per_step=32 * 64,
        protocol=protocol,  # type: ignore[arg-type]
        arms=tuple(ARMS[arm] for arm in arms),
        runs=(*tuning, *reported),
        config={
            "model": {"d_model": 64, "num_layers": 2, "num_heads": 4, "variant": "relu"},
            "optimizer": {"name": "adamw", "weight_decay": 0.1, "warmup_steps": 100},
            "data": {"kind": "stdlib_bytes", "context": 64, "batch_size": 32},
            "steps": STEPS,
        },
        environment={"python": "3.11.7", "jax": "0.10.2", "device": "cpu (2 cores)"},
        data={"description": "no data at all", "hash": "0" * 16},
        command="gelu-jax compare configs/synthetic.yaml",
    )


def with_status(made: Comparison, arm: str, seed: int, status: str) -> Comparison:
    """The same comparison with one reported run diverged, stopped early or interrupted."""
    runs = tuple(
        run(arm, seed, r.learning_rate, "report", status)
        if (r.arm, r.seed, r.purpose) == (arm, seed, "report")
        else r
        for r in made.runs
    )
    return replace(made, runs=runs)


FULL = comparison()
ALONE = comparison(("relu",), 1, ())
HOSTILE = "</script><img src=x onerror=alert(1)>&\"'|\\_$%"


def hostile() -> Comparison:
    """The full comparison with every name and text a piece of HTML, LaTeX and Markdown."""
    arms = tuple(
        Arm(arm.name + HOSTILE, {HOSTILE: HOSTILE}, arm.parameters, arm.flops_per_step)
        for arm in FULL.arms
    )
    return replace(
        FULL,
        name=HOSTILE,
        description=HOSTILE,
        unit=HOSTILE,
        command=HOSTILE,
        arms=arms,
        runs=tuple(
            replace(run, arm=run.arm + HOSTILE, health={HOSTILE: run.health["largest |h|"]})
            for run in FULL.runs
        ),
        config={HOSTILE: {HOSTILE: HOSTILE}},
        environment={HOSTILE: HOSTILE},
        data={"description": HOSTILE, HOSTILE: HOSTILE},
    )


CASES = {
    "full": FULL,
    "hostile": hostile(),
    "one run": ALONE,
    "one arm": comparison(("relu",), 3),
    "smoke test": comparison(seeds=3, rates=(), protocol="smoke test"),
    "diverged": with_status(FULL, "gelu", 103, "diverged"),
    "interrupted": with_status(ALONE, "relu", 100, "interrupted"),
    "diverged alone": with_status(ALONE, "relu", 100, "diverged"),
    "training loss": replace(FULL, metric="training loss"),
    "no run": replace(FULL, runs=()),
    "contrasts": replace(
        FULL,
        looks=(6, 8),
        config={
            **FULL.config,
            "max_seeds": 12,
            "contrasts": {
                "gated": {"swiglu": 1.0, "relu": -0.5, "gelu": -0.5},
                "gelu": {"gelu": 1.0, "relu": -1.0},
            },
        },
    ),
    "no evaluation": replace(
        ALONE,
        runs=tuple(
            replace(
                run, status="diverged", train_steps=(), train_loss=(), eval_steps=(), seconds=(),
                validation_loss=(), validation_accuracy=(), health={},
            )
            for run in ALONE.runs
        ),
    ),
    "ten arms": replace(
        ALONE,
        arms=tuple(replace(ALONE.first, name=f"arm {i}") for i in range(10)),
        runs=tuple(replace(ALONE.runs[0], arm=f"arm {i}") for i in range(10)),
    ),
}  # fmt: skip


@cache
def analyzed(case: str) -> Analysis:
    """The analysis of one of the `CASES`, made once for all tests."""
    return analyze(CASES[case])


SIZES = (30_000, 61_000, 122_000, 247_000, 500_000)


def ladder(
    factors: dict[str, tuple[float, float]] | None = None,
    seeds: int = 8,
    sizes: tuple[int, ...] = SIZES,
    noise: float = 0.004,
    draw: int = 0,
    config: dict[str, object] | None = None,
) -> tuple[Comparison, ...]:
    """The rungs of a made-up ladder whose first arm has L = 0.9 + 1.6 (C / 3e10)^-0.22.

    Args:
      factors: arm → the true speed-up at the middle of the ladder, and its slope per decade.
    """
    factors = factors if factors is not None else {"gelu": (1.0, 0.0), "swiglu": (1.3, 0.05)}
    made, steps = [], 100
    cost = {size: 6.0 * 8 * size**2 for size in sizes}
    middle = np.mean([np.log10(each) for each in cost.values()])
    rng = np.random.default_rng(draw)
    for number, size in enumerate(sizes):
        shared = rng.normal(0, 0.018, seeds)
        arms, runs = [], []
        for name, (factor, slope) in {"relu": (1.0, 0.0), **factors}.items():
            gained = factor * 10 ** (slope * (np.log10(cost[size]) - middle))
            end = 0.9 + 1.6 * (cost[size] * gained / 3e10) ** -0.22
            arms.append(Arm(name, {}, size, cost[size] / steps, 64))
            ends = end + shared + rng.normal(0, noise, seeds)
            runs += [ending(name, seed, float(ends[seed]), steps, size) for seed in range(seeds)]
            if number < 2:
                rates = (3e-3, 6e-3, 1.2e-2)
                best = 6e-3 * (size / sizes[0]) ** -0.25
                runs += [
                    ending(name, 1000, float(end + 0.1 * np.log10(rate / best) ** 2), steps, size,
                           rate, "tuning")
                    for rate in rates
                ]  # fmt: skip
        made.append(
            replace(
                FULL, name=f"{number + 1}-rung", arms=tuple(arms), runs=tuple(runs),
                tokens_per_step=8 * size // steps, config={**FULL.config, **(config or {})},
            )
        )  # fmt: skip
    return tuple(made)


def ending(
    arm: str,
    seed: int,
    end: float,
    steps: int,
    size: int,
    rate: float = 6e-3,
    purpose: str = "report",
) -> Run:
    """A run that falls from 5.5 to a given loss; its seconds grow with its size."""
    at = tuple(range(0, steps + 1, steps // 4))
    losses = tuple(end + (5.5 - end) * (1 - step / steps) ** 3 for step in at)
    return Run(
        arm=arm, seed=seed, learning_rate=rate, purpose=purpose, status="finished",  # type: ignore[arg-type]
        train_steps=at[1:], train_loss=losses[1:], eval_steps=at, validation_loss=losses,
        seconds=tuple(1e-9 * size * step for step in at),
    )  # fmt: skip
