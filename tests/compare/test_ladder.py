"""Ladders: sizes, batches and steps by their rules, rates carried up, rungs that are resumed."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import synthetic

from gelu_jax.compare.climb import (
    carried_rates,
    climb,
    is_ladder,
    ladder_rungs,
    read_ladder,
    rung_config,
    rung_rates,
    short,
)
from gelu_jax.compare.config import CompareConfig
from gelu_jax.compare.ladder import LadderConfig, Rung, rate_law, scaled
from gelu_jax.compare.records import write_results
from gelu_jax.errors import ConfigError
from gelu_jax.training.config import from_dict, read_config, to_dict, write_config
from gelu_jax.training.trainer import TrainConfig

RUN = {
    "data": {"kind": "stdlib", "context": 64},
    "model": {
        "kind": "transformer", "vocab_size": 256, "num_layers": 2, "d_model": 64,
        "block": {
            "norm": {"kind": "rms"}, "attention": {"num_heads": 4, "num_kv_heads": 2},
            "feed_forward": {"variant": "relu", "d_ff": 256},
        },
    },
    "optimizer": {"warmup_steps": 30},
    "steps": 300, "batch_size": 8, "eval_every": 30,
}  # fmt: skip
ARMS = {
    "relu": {},
    "swiglu": {"model.block.feed_forward.variant": "swiglu"},
}
DIGITS = {
    "data": {"kind": "digits"},
    "model": {"kind": "mlp", "d_in": 64, "num_classes": 10, "num_layers": 2, "d_ff": 8},
    "optimizer": {"name": "adam"}, "steps": 10, "batch_size": 32, "eval_every": 5,
}  # fmt: skip


def config_of(ladder: dict[str, Any], run: dict[str, Any] = RUN, **changes: Any) -> CompareConfig:
    plain = {"run": run, "arms": ARMS, "ladder": ladder, "learning_rates": [1e-3, 2e-3, 4e-3]}
    return from_dict(plain | changes, CompareConfig)


AUTOMATIC = config_of(
    {"sizes": 3, "smallest": 30e3, "largest": 480e3, "tokens_per_parameter": 4, "tuned_rungs": 1}
)
BY_HAND = config_of(
    {"rungs": [{"model.d_ff": 8}, {"model.d_ff": 32}, {"model.d_ff": 128}], "batch_exponent": 0},
    DIGITS,
    arms={"relu": {}, "gelu": {"model.variant": "gelu"}},
)


@pytest.fixture(scope="module")
def sizes() -> tuple[Rung, ...]:
    return ladder_rungs(AUTOMATIC)


def test_sizes_tokens_batches_and_steps_follow_their_rules(sizes: tuple[Rung, ...]):
    for rung, wanted in zip(sizes, (30e3, 120e3, 480e3), strict=True):
        assert abs(math.log(rung.parameters / wanted)) < 0.15
        assert rung.tokens == pytest.approx(4 * rung.parameters, rel=0.06)
        assert rung.run.steps // rung.run.eval_every == 10
        assert rung.run.optimizer.warmup_steps == pytest.approx(rung.run.steps / 10, abs=0.6)
        growth = (rung.tokens / sizes[0].tokens) ** 0.5
        assert rung.run.batch_size % 8 == 0
        assert rung.run.batch_size == pytest.approx(8 * growth, abs=4.1)


def test_the_shape_stays_near_that_of_the_config(sizes: tuple[Rung, ...]):
    for rung in sizes:
        model: Any = rung.run.model
        attention, ffn = model.block.attention, model.block.feed_forward
        width = attention.d_model
        assert {width, ffn.d_model, model.block.norm.d_model} == {width}
        assert 16 <= width / model.num_layers <= 64
        assert 8 <= width / attention.num_heads <= 32
        assert attention.num_heads == 2 * attention.num_kv_heads
        assert ffn.d_ff == 4 * width


def test_rungs_may_be_written_out():
    rungs = ladder_rungs(BY_HAND)
    assert [rung.run.model.d_ff for rung in rungs] == [8, 32, 128]  # type: ignore[union-attr]
    assert {rung.run.batch_size for rung in rungs} == {32}
    kept = replace(BY_HAND, ladder=LadderConfig(rungs=(
        {"model.d_ff": 8, "steps": 20, "batch_size": 16}, {"model.d_ff": 16}, {"model.d_ff": 24},
    )))  # fmt: skip
    first, second, _ = ladder_rungs(kept)
    assert (first.run.steps, first.run.batch_size) == (20, 16)
    assert second.run.steps != 20


def test_a_field_is_set_in_every_part_that_has_it():
    run = scaled(from_dict(RUN, TrainConfig), {"model.d_model": 32, "steps": 600})
    model: Any = run.model
    assert model.block.norm.d_model == model.block.feed_forward.d_model == 32
    assert run.steps == 600
    with pytest.raises(ConfigError, match=r"^model\.d_modle = 3: there is no such field to scale"):
        scaled(run, {"model.d_modle": 3})


@pytest.mark.parametrize(
    ("ladder", "line"),
    [
        ({}, r"ladder\.rungs = \[\]: give either sizes, smallest and largest, or rungs"),
        ({"sizes": 3, "smallest": 1e4}, r"ladder\.rungs = \[\]: give either"),
        ({"sizes": 2, "smallest": 1e4, "largest": 2e4}, "sizes = 2: a ladder has at least 3 rungs"),
        ({"sizes": 3, "smallest": 2e4, "largest": 1e4}, "smallest = 20000.0: must be below larg"),
        ({"sizes": 3, "smallest": 1e4, "largest": 2e4, "tokens_per_parameter": 0}, "above 0"),
    ],
)
def test_a_wrong_ladder_is_one_line(ladder: dict[str, Any], line: str):
    with pytest.raises(ConfigError, match=line) as caught:
        config_of(ladder)
    assert len(caught.value.problems) == 1


def test_what_a_ladder_cannot_do_is_said():
    with pytest.raises(ConfigError, match=r"arms\.x\.model\.d_ff = 8: a ladder sets it"):
        config_of(to_dict(BY_HAND.ladder), DIGITS, arms={"x": {"model.d_ff": 8}})
    mlp = replace(BY_HAND, ladder=LadderConfig(sizes=3, smallest=1e3, largest=1e4))
    with pytest.raises(ConfigError, match="only a transformer is scaled by itself"):
        ladder_rungs(mlp)
    same = replace(BY_HAND, ladder=LadderConfig(rungs=({"model.d_ff": 8},) * 3))
    with pytest.raises(ConfigError, match="the rungs must grow in parameters"):
        ladder_rungs(same)


def test_a_config_without_a_ladder_reads_as_before():
    plain = to_dict(replace(AUTOMATIC, ladder=None))
    del plain["ladder"], plain["factors"]
    assert from_dict(plain, CompareConfig) == replace(from_dict(plain, CompareConfig), ladder=None)


# --- Learning rates ---------------------------------------------------------------------------


def test_a_planted_law_of_rates_is_carried_up():
    """Best rates between grid points of 6e-3 (N / 30k)^-0.25, with noise in neither."""
    made = synthetic.ladder()[:2]
    law = carried_rates(made, synthetic.SIZES)
    assert law.exponent == pytest.approx(-0.25, abs=0.02)
    for arm in ("relu", "swiglu"):
        assert law.rate(arm, 480_000) == pytest.approx(3e-3, rel=0.05)
    assert rate_law({1000: {"a": 1e-3}}).rate("a", 10**6) == 1e-3


def test_rates_of_each_rung(sizes: tuple[Rung, ...]):
    """The grid where it is tuned; one rate of the law above; both neighbours at the top."""
    made = synthetic.ladder({"swiglu": (1.3, 0.0)}, sizes=tuple(r.parameters for r in sizes))
    grid = AUTOMATIC.learning_rates
    assert rung_rates(AUTOMATIC, sizes, 0, []) == grid
    middle, top = (rung_rates(AUTOMATIC, sizes, n, made[:n]) for n in (1, 2))
    assert isinstance(middle, dict)
    assert isinstance(top, dict)
    assert {len(rates) for rates in middle.values()} == {1}
    for low, rate, high in top.values():
        assert (low, high) == pytest.approx((rate / 2, rate * 2), rel=0.05)
    config = rung_config(AUTOMATIC, sizes, 2, made[:2])
    assert config.ladder is None
    assert config.run == sizes[2].run
    assert f"{sizes[2].parameters:,} parameters" in config.description
    untuned = replace(AUTOMATIC, learning_rates=(3e-3,))
    assert rung_rates(untuned, sizes, 2, made[:2]) == (3e-3,)


# --- Doing it ---------------------------------------------------------------------------------


def test_a_ladder_climbs_in_order_and_reads_back(tmp_path: Path):
    """The rungs are made up; each is asked for with the records of those below it."""
    made = synthetic.ladder({"gelu": (1.2, 0.0)}, sizes=(690, 2_000, 9_000))
    asked: list[tuple[str, Any]] = []

    def compare_rung(config: CompareConfig, directory: Path):
        asked.append((directory.relative_to(tmp_path).as_posix(), config.learning_rates))
        directory.mkdir(parents=True)
        write_results(made[len(asked) - 1], directory)
        return made[len(asked) - 1]

    assert climb(BY_HAND, tmp_path, compare_rung) == made
    numbers = [rung.parameters for rung in ladder_rungs(BY_HAND)]
    assert [place for place, _ in asked] == [
        f"rungs/{n + 1}-{short(size)}" for n, size in enumerate(numbers)
    ]
    assert [type(rates) for _, rates in asked] == [tuple, tuple, dict]
    assert is_ladder(tmp_path)
    config, back = read_ladder(tmp_path)
    assert to_dict(config) == to_dict(BY_HAND)
    assert back == made
    (tmp_path / asked[1][0] / "results.json").unlink()
    with pytest.raises(ConfigError, match="2 of 3 rungs are finished; a law needs 3"):
        read_ladder(tmp_path)
    (tmp_path / "ladder.json").write_text(json.dumps({}))
    with pytest.raises(ConfigError, match=r"no ladder\.json that can be read"):
        read_ladder(tmp_path)


def test_the_config_of_a_ladder_reads_back(tmp_path: Path):
    for config in (AUTOMATIC, BY_HAND):
        write_config(config, tmp_path / "config.yaml")
        assert to_dict(read_config(tmp_path / "config.yaml", CompareConfig)) == to_dict(config)
