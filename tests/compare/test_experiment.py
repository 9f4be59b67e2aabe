"""A comparison: matched arms, rates tuned on other seeds, everything on record, nothing twice."""

import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gelu_jax.compare import experiment, matching
from gelu_jax.compare.config import CompareConfig, changed, differences, flatten
from gelu_jax.compare.experiment import best_learning_rate, compare, matched_arms, prepare
from gelu_jax.compare.matching import matched, parameters, width, with_width
from gelu_jax.compare.records import Comparison, read_results
from gelu_jax.errors import ConfigError
from gelu_jax.nn.variants import VARIANTS, num_learned
from gelu_jax.runs import execution as runs
from gelu_jax.runs.record import Run
from gelu_jax.training.config import from_dict, read_config, to_dict
from gelu_jax.training.data import load_data
from gelu_jax.training.trainer import Point, State, TrainConfig, Trainer, evaluate

DIGITS = {
    "data": {"kind": "digits"},
    "model": {"kind": "mlp", "d_in": 64, "num_classes": 10, "num_layers": 2, "d_ff": 16},
    "optimizer": {"name": "adam"},
    "steps": 4,
    "batch_size": 32,
    "eval_every": 2,
}
LM = {
    "data": {"kind": "stdlib", "context": 8, "validation_windows": 4},
    "model": {
        "kind": "transformer",
        "vocab_size": 256,
        "num_layers": 2,
        "d_model": 16,
        "block": {
            "norm": {"kind": "rms"},
            "attention": {"num_heads": 2, "rotary": {}},
            "feed_forward": {"variant": "relu", "d_ff": 64},
        },
    },
    "steps": 4,
    "batch_size": 2,
    "eval_every": 2,
}
RUN = from_dict(DIGITS, TrainConfig)
ARMS = {"relu": {"model.variant": "relu"}, "swiglu": {"model.variant": "swiglu"}}


def config_of(**changes: Any) -> CompareConfig:
    return replace(CompareConfig(RUN, ARMS, seeds=2, multiple_of=2), **changes)


# --- Matching ---------------------------------------------------------------------------------


@settings(max_examples=12)
@given(
    st.sampled_from(sorted(VARIANTS)),
    st.sampled_from(sorted(VARIANTS)),
    st.integers(1, 400),
    st.sampled_from([1, 2, 8, 32, 64]),
    st.sampled_from([1, 3]),
)
def test_no_other_multiple_is_nearer(
    variant: str, first: str, d_ff: int, multiple_of: int, layers: int
):
    """Against every multiple around it; the count itself is by hand."""
    model = replace(RUN.model, num_layers=layers)
    base = replace(RUN, model=replace(model, variant=first, d_ff=d_ff))
    arm = replace(RUN, model=replace(model, variant=variant))
    target = parameters(base)
    found = width(matched(arm, parameters, target, multiple_of))
    assert found % multiple_of == 0
    assert found >= multiple_of

    def off(n: int) -> int:
        return abs(parameters(with_width(arm, n)) - target)

    others = (found + k * multiple_of for k in (-3, -2, -1, 1, 2, 3))
    assert all(off(found) <= off(n) for n in others if n > 0)
    branches = len(VARIANTS[variant])
    learned = layers * num_learned(variant)
    sizes = [64] + [found] * (layers - 1)
    by_hand = sum(branches * (d + 1) * found for d in sizes) + (found + 1) * 10 + learned
    assert parameters(with_width(arm, found)) == by_hand


def test_a_language_model_is_matched_in_its_blocks():
    run = from_dict(LM, TrainConfig)
    swiglu = changed(run, {"model.block.feed_forward.variant": "swiglu"})
    arm = matched(swiglu, parameters, parameters(run), 8)
    assert width(arm) == 40  # 2/3 of 64 is 42.7
    # per layer: q, k, v, out; the branches and w_out; two norm scales. And embedding, final norm
    assert parameters(arm) == 2 * (4 * 16 * 16 + 3 * 16 * 40 + 2 * 16) + 256 * 16 + 16


def test_matching_by_flops_and_by_width_and_by_name():
    data = load_data(RUN.data, RUN.batch_size)
    by = {how: matched_arms(config_of(match=how), data) for how in ("flops", "width", "parameters")}
    assert {how: width(arms["relu"]) for how, arms in by.items()} == dict.fromkeys(by, 16)
    assert width(by["width"]["swiglu"]) == 16
    assert by["parameters"]["swiglu"].model.variant == "swiglu"
    cost = partial(matching.flops_per_step, data=data)
    target, found = cost(by["flops"]["relu"]), by["flops"]["swiglu"]
    near = [abs(cost(with_width(found, width(found) + k)) - target) for k in (0, -2, 2)]
    assert near[0] == min(near)
    named = {**ARMS, "swiglu": {**ARMS["swiglu"], "model.d_ff": 30}}
    assert width(matched_arms(config_of(arms=named), data)["swiglu"]) == 30


# --- The fields that arms change --------------------------------------------------------------


def test_an_arm_may_change_any_field():
    changes = {"optimizer.name": "sgd", "steps": 8, "model.dropout_rate": 0.5, "model.d_ff": 3}
    run = changed(RUN, changes)
    assert (run.optimizer.name, run.steps, run.model.dropout_rate) == ("sgd", 8, 0.5)
    assert replace(run, optimizer=RUN.optimizer, steps=4, model=RUN.model) == RUN
    lm = from_dict(LM, TrainConfig)
    assert changed(lm, {"model.block.attention.rotary": None}).model.block.attention.rotary is None


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"model.varient": "relu"},
         "arms.x.model.varient: unknown key; did you mean variant?"),
        ({"modle.variant": "relu"}, "arms.x.modle: unknown key; did you mean model?"),
        ({"model.variant": "rellu"},
         "arms.x.model.variant = 'rellu': unknown; did you mean relu, relu6, reglu?"),
        ({"model.d_ff": "wide"}, "arms.x.model.d_ff = 'wide': should be a valid integer"),
        ({"model.d_ff": 2.5}, "arms.x.model.d_ff = 2.5: should be a valid integer"),
        ({"steps.x": 3}, "arms.x.steps = {'x': 3}: should be a valid integer"),
        ({"eval_every": 3}, "arms.x.eval_every = 3: must divide steps = 4; nearest: 2"),
        ({"batch_size": 64}, "arms.x = {'batch_size': 64}: arms must see the same data"),
        ({"data.validation_fraction": 0.5},
         "arms.x = {'data.validation_fraction': 0.5}: arms must see the same data"),
        ({"seed": 3}, "arms.x.seed = 3: is the same for all arms: set seeds and "
                      "learning_rates instead"),
        ({"optimizer.learning_rate": 0.1},
         "arms.x.optimizer.learning_rate = 0.1: is the same for all arms: set seeds and "
         "learning_rates instead"),
        ({"model": 3}, "arms.x.model = 3: should be a section of keys"),
    ],
)  # fmt: skip
def test_a_wrong_change_is_one_line(changes: dict[str, Any], line: str):
    with pytest.raises(ConfigError) as caught:
        config_of(arms={"relu": {}, "x": changes}, learning_rates=(0.1, 0.2))
    assert str(caught.value) == line


def test_a_field_that_only_passes_its_value_on_is_no_change():
    """`model.d_model` is a default for the parts, and the parts of a resolved run have theirs."""
    with pytest.raises(ConfigError, match=r"^model\.d_model = 32: changes nothing here; name the"):
        changed(from_dict(LM, TrainConfig), {"model.d_model": 32})


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"arms": {}}, "arms = {}: a comparison has at least one arm"),
        ({"arms": {"a/b": {}}}, "arms = 'a/b': cannot be the name of a folder"),
        ({"arms": {"..": {}}}, "arms = '..': cannot be the name of a folder"),
        ({"seeds": 0}, "seeds = 0: must be above 0"),
        ({"seeds": 1001}, "seeds = 1001: more than 1000 would overlap with the tuning seeds"),
        ({"learning_rates": (0.1, -0.1)}, "learning_rates = -0.1: must be above 0"),
        ({"learning_rates": (0.1, 0.1)}, "learning_rates = (0.1, 0.1): a rate is given twice"),
        ({"multiple_of": 0}, "multiple_of = 0: must be above 0"),
    ],
)
def test_a_wrong_comparison_is_one_line(changes: dict[str, Any], line: str):
    with pytest.raises(ConfigError) as caught:
        config_of(**changes)
    assert str(caught.value) == line


def test_differences_name_what_an_arm_takes_away(tmp_path: Path, made_up: "MadeUp"):
    """A part set to null is a difference too, though the first arm has no such leaf."""
    lm = from_dict(LM, TrainConfig)
    config = CompareConfig(lm, {"rotary": {}, "none": {"model.block.attention.rotary": None}})
    comparison = compare(replace(config, seeds=1), tmp_path)
    assert comparison.arms[0].difference == {}
    assert comparison.arms[1].difference == {"model.block.attention.rotary": None}


def test_flatten_keeps_lists_whole():
    tree = {"a": {"b": [1, {"c": 2}], "d": None}, "e": ()}
    assert flatten(tree) == {"a.b": [1, {"c": 2}], "a.d": None, "e": ()}


# --- Tuning and records, with made-up losses --------------------------------------------------


class MadeUp:
    """Stands in for training: a final loss for (arm's variant, rate, seed), and a list of fits."""

    def __init__(self) -> None:
        self.loss: Callable[[str, float, int], float] = lambda variant, rate, seed: 1.0
        self.fits: list[tuple[str, float, int]] = []

    def fit(
        self, trainer: Trainer, seed: int, learning_rate: float, resume: Any = None
    ) -> Iterator[tuple[State, Point]]:
        assert resume is None
        model: Any = trainer.config.model
        variant = str(getattr(model, "variant", ""))
        self.fits.append((variant, learning_rate, seed))
        end = self.loss(variant, learning_rate, seed)
        state: Any = State(None, (), jnp.zeros((), jnp.int32))  # type: ignore[arg-type]
        yield state, Point(0, math.nan, 2.3, 0.1, 0.0)
        yield state, Point(2, 2.0, 2.0, 0.2, 0.5)
        yield state, Point(trainer.config.steps, 1.5, end, 0.3, 1.0)


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> MadeUp:
    made = MadeUp()
    monkeypatch.setattr(Trainer, "fit", lambda *args: made.fit(*args))
    monkeypatch.setattr(Trainer, "programs", SimpleNamespace(seconds=0.25))
    monkeypatch.setattr(runs.checkpoint.AsyncSaver, "save", lambda *args: None)
    return made


@pytest.fixture(scope="module")
def trainers() -> dict[str, Trainer]:
    return prepare(config_of())


def distance(best: float) -> Callable[[str, float, int], float]:
    """A loss with its minimum over the rates at one of them."""
    return lambda variant, rate, seed: 1 + abs(math.log(rate / best)) + 0.01 * seed


def test_the_best_rate_is_taken_and_the_grid_stands(
    tmp_path: Path, made_up: MadeUp, trainers: dict[str, Trainer]
):
    made_up.loss = distance(2e-3)
    config = config_of(learning_rates=(4e-3, 1e-3, 2e-3), tuning_seeds=2)
    comparison = compare(config, tmp_path, trainers=trainers)
    for arm in ARMS:
        tuning = comparison.runs_of(arm, "tuning")
        assert [(r.learning_rate, r.seed) for r in tuning] == [
            (rate, seed) for rate in (1e-3, 2e-3, 4e-3) for seed in (1000, 1001)
        ]
        reported = comparison.runs_of(arm)
        assert [(r.learning_rate, r.seed) for r in reported] == [(2e-3, 0), (2e-3, 1)]
    assert len(made_up.fits) == 2 * (6 + 2)


@pytest.mark.parametrize(
    ("best", "beyond", "chosen"),
    [
        (6e-4, [5e-4, 2.5e-4], 5e-4),
        (1e-4, [5e-4, 2.5e-4, 1.25e-4, 6.25e-5], 1.25e-4),
        (1.0, [8e-3, 1.6e-2, 3.2e-2, 6.4e-2], 6.4e-2),  # still at the edge: there it ends
    ],
)
def test_a_best_rate_at_the_edge_extends_the_grid(
    tmp_path: Path, made_up: MadeUp, trainers: dict[str, Trainer],
    best: float, beyond: list[float], chosen: float,
):  # fmt: skip
    made_up.loss = distance(best)
    config = config_of(learning_rates=(1e-3, 2e-3, 4e-3), tuning_seeds=1)
    comparison = compare(config, tmp_path, trainers=trainers)
    for arm in ARMS:
        rates = [run.learning_rate for run in comparison.runs_of(arm, "tuning")]
        assert rates == pytest.approx(sorted([1e-3, 2e-3, 4e-3, *beyond]))
        assert {r.learning_rate for r in comparison.runs_of(arm)} <= set(rates)
        assert comparison.runs_of(arm)[0].learning_rate == pytest.approx(chosen)


def test_each_arm_may_have_a_grid_of_its_own(
    tmp_path: Path, made_up: MadeUp, trainers: dict[str, Trainer]
):
    made_up.loss = distance(2e-3)
    grids = {"relu": (5e-3,), "swiglu": (1e-3, 2e-3, 4e-3)}
    comparison = compare(config_of(learning_rates=grids), tmp_path, trainers=trainers)
    assert not comparison.runs_of("relu", "tuning")
    assert {run.learning_rate for run in comparison.runs_of("relu")} == {5e-3}
    assert {run.learning_rate for run in comparison.runs_of("swiglu")} == {2e-3}
    with pytest.raises(ConfigError, match=r"must name each arm once: relu, swiglu"):
        config_of(learning_rates={"relu": (1e-3,)})


def test_a_diverged_run_counts_as_infinite(
    tmp_path: Path, made_up: MadeUp, trainers: dict[str, Trainer]
):
    """One of two seeds diverges at the rate that would be best; the other arm is not touched."""

    def loss(variant: str, rate: float, seed: int) -> float:
        if (variant, rate, seed) == ("swiglu", 2e-3, 1001):
            return math.nan
        return distance(2e-3)(variant, rate, seed) - 0.1 * (rate == 1e-3)

    made_up.loss = loss
    config = config_of(learning_rates=(5e-4, 1e-3, 2e-3, 4e-3), tuning_seeds=2)
    comparison = compare(config, tmp_path, trainers=trainers)
    assert {r.learning_rate for r in comparison.runs_of("relu")} == {2e-3}
    assert {r.learning_rate for r in comparison.runs_of("swiglu")} == {1e-3}
    (run,) = (r for r in comparison.runs if r.status == "diverged")
    assert (run.arm, run.seed, run.learning_rate) == ("swiglu", 1001, 2e-3)
    assert read_results(tmp_path).runs_of("swiglu", "tuning")[5].status == "diverged"
    # and it is not trained again: its record reads back
    before = len(made_up.fits)
    compare(config, tmp_path, trainers=trainers)
    assert len(made_up.fits) == before


def test_all_diverged_still_ends(tmp_path: Path, made_up: MadeUp, trainers: dict[str, Trainer]):
    made_up.loss = lambda *_: math.inf
    config = config_of(learning_rates=(1e-3, 2e-3))
    comparison = compare(config, tmp_path, trainers=trainers)
    assert {run.status for run in comparison.runs} == {"diverged"}
    assert {run.learning_rate for run in comparison.runs_of("relu")} == {1e-3}


def test_best_rate_by_hand():
    best = partial(best_learning_rate, metric="validation loss")

    def run(rate: int, loss: float, status: str = "finished") -> Run:
        curves = ((1,), (1.0,), (0,), (loss,), (0.0,))
        return Run("a", 0, float(rate), "tuning", status, *curves)  # type: ignore[arg-type]

    assert best([run(1, 3.0), run(1, 1.0), run(2, 2.1), run(2, 2.2)]) == 1
    assert best([run(1, 3.0), run(1, 1.0), run(2, 1.9), run(2, 1.8)]) == 2
    assert best([run(1, 0.1, "diverged"), run(1, 0.1), run(2, 9.0)]) == 2
    assert best([run(2, 1.0), run(1, 1.0)]) == 2  # the first of equals
    low, high = replace(run(1, 5.0), train_loss=(0.1,)), replace(run(2, 1.0), train_loss=(0.2,))
    assert best([low, high]) == 2
    assert best_learning_rate([low, high], "training loss") == 1


def test_one_rate_or_none_is_not_tuned(
    tmp_path: Path, made_up: MadeUp, trainers: dict[str, Trainer]
):
    compare(config_of(), tmp_path / "a", trainers=trainers)
    assert {rate for _, rate, _ in made_up.fits} == {RUN.optimizer.learning_rate}
    compare(config_of(learning_rates=(0.5,)), tmp_path / "b", trainers=trainers)
    assert {rate for _, rate, _ in made_up.fits[4:]} == {0.5}
    assert len(made_up.fits) == 8


def test_everything_is_on_record(tmp_path: Path, made_up: MadeUp, trainers: dict[str, Trainer]):
    config = config_of(description="what for", run=replace(RUN, seed=7))
    comparison = compare(config, tmp_path / "x", trainers=trainers)
    assert read_results(tmp_path / "x") == comparison
    assert comparison.unit == "nats per image"  # the digits' own
    assert to_dict(read_config(tmp_path / "x" / "config.yaml", CompareConfig)) == to_dict(config)
    assert to_dict(from_dict(comparison.config, CompareConfig)) == to_dict(config)
    relu, swiglu = comparison.arms
    assert (relu.name, relu.difference, relu.d_ff) == ("relu", {}, 16)
    assert swiglu.difference == {"model.variant": "swiglu", "model.d_ff": swiglu.d_ff}
    assert relu.parameters == parameters(trainers["relu"].config) == 65 * 16 + 17 * 16 + 170
    assert (
        abs(swiglu.parameters / relu.parameters - 1) < 0.1
    )  # the widths are multiples of 2, and tiny
    assert swiglu.flops_per_step > 0
    assert {run.seed for run in comparison.runs} == {7, 8}
    assert comparison.data["hash"] == trainers["relu"].data.info.hash
    assert (comparison.name, comparison.tokens_per_step) == ("x", 32)
    assert {"jax", "flax", "optax", "python", "device", "commit", "date"} <= set(
        comparison.environment
    )
    for home in (tmp_path / "x" / "runs").glob("*/*"):
        own = read_config(home / "config.yaml", TrainConfig)
        assert to_dict(own) == to_dict(replace(trainers[home.parent.name].config, seed=own.seed))
        lines = [json.loads(line) for line in (home / "metrics.jsonl").read_text().splitlines()]
        assert [line["step"] for line in lines] == [0, 2, 4]
        assert lines[2]["train_loss"] == 1.5
        assert "train_loss" not in lines[0]


def test_only_what_is_missing_is_done(
    tmp_path: Path, made_up: MadeUp, trainers: dict[str, Trainer], monkeypatch: pytest.MonkeyPatch
):
    """Other seeds, an arm more, another config, other data, other code: each trains its own."""

    def fits(config: CompareConfig, use: dict[str, Trainer] | None = None) -> int:
        before = len(made_up.fits)
        compare(config, tmp_path, trainers=use or trainers)
        return len(made_up.fits) - before

    assert fits(config_of()) == 4
    assert fits(config_of()) == 0
    assert fits(config_of(seeds=4)) == 4
    assert fits(config_of(seeds=1)) == 0
    assert fits(config_of(description="other words")) == 0
    three = {**trainers, "gelu": Trainer(RUN, trainers["relu"].data)}
    assert fits(config_of(arms={**ARMS, "gelu": {}}), three) == 2
    longer = {name: Trainer(replace(t.config, steps=8), t.data) for name, t in trainers.items()}
    assert fits(config_of(run=replace(RUN, steps=8)), longer) == 4
    assert fits(config_of()) == 0
    monkeypatch.setattr(runs, "versions", lambda: ["another jax", "cpu", "same numerics"])
    assert fits(config_of()) == 4
    monkeypatch.undo()


def test_the_address_covers_config_data_and_versions(
    trainers: dict[str, Trainer], monkeypatch: pytest.MonkeyPatch
):
    trainer = trainers["relu"]
    task = runs.Task("relu", 0, 1e-3, "report")

    def address(trainer: Trainer, task: runs.Task) -> str:
        return runs.folder(trainer, task, Path("x")).name

    base = address(trainer, task)
    assert base.startswith("report-lr0.001-seed0-")
    other_rate = address(trainer, replace(task, learning_rate=1e-3 + 1e-12))
    other_config = address(Trainer(replace(trainer.config, steps=8), trainer.data), task)
    data: Any = trainer.data
    facts = replace(data.info, hash="0" * 64)
    other_data = address(Trainer(trainer.config, replace(data, info=facts)), task)
    monkeypatch.setattr(runs, "versions", lambda: ["x"])
    other_versions = address(trainer, task)
    assert len({base, other_rate, other_config, other_data, other_versions}) == 5
    monkeypatch.undo()
    assert address(trainer, task) == base
    assert len(runs.versions()) == 3


# --- A real one -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> tuple[Comparison, Path]:
    directory = tmp_path_factory.mktemp("real")
    config = config_of(seeds=1, learning_rates=(1e-3, 1e-2))
    return compare(config, directory), directory


def test_a_trained_comparison(real: tuple[Comparison, Path], monkeypatch: pytest.MonkeyPatch):
    comparison, directory = real
    assert {run.status for run in comparison.runs} == {"finished"}
    assert all(run.eval_steps == (0, 2, 4) for run in comparison.runs)
    assert all(run.compile_seconds > 0 for run in comparison.runs)
    # the checkpoints of tuning runs are not kept, those of the reported ones are
    kept = {path.parent.name.split("-")[0] for path in directory.glob("runs/*/*/checkpoint")}
    assert kept == {"report"}
    monkeypatch.setattr(Trainer, "fit", None)
    assert compare(from_dict(comparison.config, CompareConfig), directory).runs == comparison.runs


def test_a_run_is_finished_when_its_last_checkpoint_stands(
    tmp_path: Path, trainers: dict[str, Trainer], monkeypatch: pytest.MonkeyPatch
):
    """It is saved in the background: a kill before it stands must leave the run unfinished."""
    sums, write, stood = runs.checkpoint._checksums, runs.write_run, list[bool]()

    def noted(run: Run, home: Path) -> None:
        if run.status == "finished":
            stood.append((home / "checkpoint" / "4" / "sums.json").exists())
        write(run, home)

    monkeypatch.setattr(
        runs.checkpoint, "_checksums", lambda folder: (time.sleep(0.3), sums(folder))[1]
    )
    monkeypatch.setattr(runs, "write_run", noted)
    task = runs.Task("relu", 0, 1e-3, "report")
    runs.execute(trainers["relu"], task, tmp_path, lambda *_: None)
    assert stood == [True]


def test_the_model_of_a_run_is_loaded(real: tuple[Comparison, Path]):
    """It has the loss that is on record, to the last bit."""
    comparison, directory = real
    (home,) = directory.glob("runs/relu/report-*")
    model = runs.load_model(home)
    data = load_data(RUN.data, RUN.batch_size)
    loss, _ = jax.jit(partial(evaluate, batch_size=RUN.batch_size))(model, data)
    assert float(loss) == comparison.runs_of("relu")[0].final_loss


def test_what_can_be_wrong_is_found_before_anything_is_written(tmp_path: Path):
    for run in (
        {**DIGITS, "data": {"kind": "mnist", "path": str(tmp_path / "no")}},
        {**DIGITS, "model": {**DIGITS["model"], "d_in": 63}},
        {**DIGITS, "batch_size": 10**6},
    ):
        with pytest.raises(ConfigError):
            compare(CompareConfig(from_dict(run, TrainConfig), ARMS), tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


def test_a_config_is_read_as_it_is_written():
    config = config_of(learning_rates=(1e-3, 2e-3))
    back = from_dict(to_dict(config), CompareConfig)
    assert to_dict(back) == to_dict(config)
    assert not differences(replace(back, seeds=5), config)
    assert differences(config, replace(back, multiple_of=8)) == ["multiple_of: 2 there, 8 here"]
    assert experiment.planned_runs(config, "relu") == 2 + 2 * 2
    assert experiment.planned_runs(config_of(), "relu") == 2


# --- Looks ------------------------------------------------------------------------------------


def test_every_number_of_seeds_that_was_looked_at_is_on_record(
    tmp_path: Path, made_up: MadeUp, trainers: dict[str, Trainer]
):
    """Once each: the same command again is no new look, nor are other words."""
    config = config_of(max_seeds=6)

    def looks(**changes: Any) -> tuple[int, ...]:
        return compare(replace(config, **changes), tmp_path, trainers=trainers).looks

    assert looks() == (2,)
    assert looks() == (2,)
    assert looks(seeds=4) == (2, 4)
    assert looks(seeds=3) == (2, 3, 4)
    assert read_results(tmp_path).looks == (2, 3, 4)
    assert looks(seeds=5, metric="training loss") == (2, 3, 4, 5)  # a change has been seen
    (change,) = read_results(tmp_path).changes
    assert change.seeds == 4
    assert change.differences == ("metric: validation loss there, training loss here",)
    assert looks(seeds=5) == (2, 3, 4, 5)
    assert len(read_results(tmp_path).changes) == 2
    assert looks(seeds=5) == (2, 3, 4, 5)
    assert len(read_results(tmp_path).changes) == 2


def test_a_record_from_before_looks_were_recorded_was_looked_at_once(
    tmp_path: Path, made_up: MadeUp, trainers: dict[str, Trainer]
):
    compare(config_of(), tmp_path, trainers=trainers)
    old = json.loads((tmp_path / "results.json").read_text())
    del old["looks"], old["config"]["max_seeds"]
    (tmp_path / "results.json").write_text(json.dumps(old))
    assert read_results(tmp_path).looks == ()
    assert compare(config_of(seeds=3), tmp_path, trainers=trainers).looks == (2, 3)


def test_seeds_beyond_the_plan_are_refused():
    with pytest.raises(ConfigError, match=r"seeds = 9: more than max_seeds = 8, which was fixed"):
        config_of(seeds=9, max_seeds=8)


def test_what_can_be_found_is_announced_before_it_is_trained(
    tmp_path: Path, made_up: MadeUp, trainers: dict[str, Trainer]
):
    made_up.loss = distance(2e-3)
    config = config_of(learning_rates=(1e-3, 2e-3, 4e-3), tuning_seeds=2)
    lines: list[str] = []
    compare(config, tmp_path, trainers=trainers, announce=lines.append)
    assert len(lines) == 2
    assert "can never conclude" in lines[0]
    assert "The tuning seeds suggest swiglu +0." in lines[1]


# --- Contrasts --------------------------------------------------------------------------------


def test_contrasts_are_asked_for_in_the_config(
    tmp_path: Path, made_up: MadeUp, trainers: dict[str, Trainer]
):
    config = config_of(contrasts={"gain": {"swiglu": 1, "relu": -1}})
    back = read_config_of(compare(config, tmp_path, trainers=trainers))
    assert back.contrasts == {"gain": {"swiglu": 1, "relu": -1}}
    assert differences(back, config_of())


def read_config_of(comparison: Comparison) -> CompareConfig:
    return from_dict(comparison.config, CompareConfig)


@pytest.mark.parametrize(
    ("contrasts", "line"),
    [
        ({"a": {"geul": 1, "relu": -1}}, r"contrasts.a = 'geul': no such arm; the arms are relu, "),
        ({"a": {"swiglu": 1, "relu": -0.5}}, "contrasts.a = .*: the weights must sum to zero"),
        ({"a": {"swiglu": 0, "relu": 0}}, "contrasts.a = .*: .* and not all be 0"),
        (
            {"a": {"swiglu": 1, "relu": -1}, "b": {"relu": 2, "swiglu": -2}},
            "contrasts.b = .*: asks the same as a",
        ),
    ],
)
def test_a_wrong_contrast_is_one_line(contrasts: dict[str, dict[str, float]], line: str):
    with pytest.raises(ConfigError, match=line):
        config_of(contrasts=contrasts)
