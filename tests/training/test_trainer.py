"""A run is a pure function of (config, seed): bit for bit, in any pieces, from any state."""

import dataclasses
import math
from dataclasses import replace
from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gelu_jax.errors import ConfigError
from gelu_jax.training import trainer as training
from gelu_jax.training.config import from_dict
from gelu_jax.training.data import load_data
from gelu_jax.training.health import _transformer as of_transformer
from gelu_jax.training.health import health
from gelu_jax.training.trainer import Keys, Point, TrainConfig, Trainer, init, loss

LM = {
    "data": {"kind": "stdlib", "context": 8, "validation_windows": 9},
    "model": {
        "kind": "transformer",
        "vocab_size": 256,
        "num_layers": 1,
        "d_model": 8,
        "block": {
            "norm": {"kind": "rms"},
            "attention": {"num_heads": 2, "rotary": {}},
            "feed_forward": {"variant": "swiglu", "d_ff": 8, "dropout_rate": 0.1},
        },
    },
    "optimizer": {"warmup_steps": 2, "weight_decay": 0.1},
    "steps": 6,
    "batch_size": 4,
    "eval_every": 2,
}
DIGITS = {
    "data": {"kind": "digits"},
    "model": {
        "kind": "mlp",
        "d_in": 64,
        "num_classes": 10,
        "num_layers": 2,
        "d_ff": 8,
        "dropout_rate": 0.1,
    },
    "optimizer": {"name": "adam"},
    "steps": 12,
    "batch_size": 32,
    "eval_every": 4,
}
RATE = 3e-3
UNOPTIMIZED = {"xla_backend_optimization_level": 0}  # where no bits are compared


def config_of(plain: dict[str, Any], **changes: Any) -> TrainConfig:
    return replace(from_dict(plain, TrainConfig), **changes)


def trainer_of(plain: dict[str, Any], **changes: Any) -> Trainer:
    config = config_of(plain, **changes)
    return Trainer(config, load_data(config.data, config.batch_size))


@pytest.fixture(scope="module", params=["lm", "digits"])
def trainer(request: pytest.FixtureRequest) -> Trainer:
    return trainer_of(LM if request.param == "lm" else DIGITS)


def curve(points: list[Point]) -> list[tuple[Any, ...]]:
    """All of a curve but its seconds; a NaN (the training loss at step 0) as its repr."""
    return [tuple(map(repr, point._replace(seconds=0.0))) for point in points]


def assert_equal_bits(one: Any, other: Any) -> None:
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def test_a_run_twice_and_from_each_of_its_states(trainer: Trainer):
    """Also from another trainer's state: nothing but config, seed and rate decides."""
    whole = list(trainer.fit(5, RATE))
    again = list(trainer.fit(5, RATE))
    assert curve([p for _, p in again]) == curve([p for _, p in whole])
    for k, (state, point) in enumerate(whole):
        rest = list(trainer.fit(5, RATE, (state, 100.0)))
        assert curve([p for _, p in rest]) == curve([p for _, p in whole[k + 1 :]])
        assert all(p.seconds >= 100.0 for _, p in rest)
        assert_equal_bits([s for s, _ in rest], [s for s, _ in whole[k + 1 :]])
    points = [point for _, point in whole]
    every, steps = trainer.config.eval_every, trainer.config.steps
    assert [p.step for p in points] == list(range(0, steps + 1, every))
    assert math.isnan(points[0].train_loss)
    assert not any(point.diverged for point in points)
    assert points[-1].validation_loss < points[0].validation_loss
    seconds = [point.seconds for point in points]
    assert seconds == sorted(seconds)
    assert seconds[0] == 0.0


def test_seeds_and_rates_differ(trainer: Trainer):
    ends = [
        list(trainer.fit(seed, rate))[-1][1].validation_loss
        for seed, rate in ((0, RATE), (1, RATE), (0, 2 * RATE))
    ]
    assert len(set(ends)) == 3


def test_no_retrace_for_other_rates_and_seeds(monkeypatch: pytest.MonkeyPatch):
    """`Trainer.programs` traces a step once; fits call what has been compiled."""
    chex.clear_trace_counter()
    monkeypatch.setattr(training, "step", chex.assert_max_traces(training.step, n=1))
    monkeypatch.setattr(training, "evaluate", chex.assert_max_traces(training.evaluate, n=1))
    trainer = trainer_of(DIGITS)
    compiled = trainer.programs
    assert compiled.seconds > 0
    for seed, rate in ((0, 1e-3), (1, 1e-3), (2, 0.1), (2**32 - 1, 1e-9)):
        list(trainer.fit(seed, rate))
    assert trainer.programs is compiled


def test_how_often_it_is_evaluated_changes_nothing(trainer: Trainer):
    """Chunks of any size end in the same parameters: measured equal, bit for bit, on a CPU."""
    config = trainer.config
    (*_, (state, point)) = trainer.fit(0, RATE)
    other = Trainer(replace(config, eval_every=config.steps), trainer.data)
    (_, (state_2, point_2)) = other.fit(0, RATE)
    assert_equal_bits(state_2, state)
    assert point_2.validation_loss == point.validation_loss
    # the training loss is a mean over the chunk, so that of the whole is the mean of them
    points = [p for _, p in trainer.fit(0, RATE)][1:]
    mean = sum(p.train_loss for p in points) / len(points)
    assert point_2.train_loss == pytest.approx(mean, rel=1e-6)


def test_steps_of_the_chunk_are_those_of_the_equation(trainer: Trainer):
    """Scanned and compiled against `step` called by hand: within 1e-5 after two steps."""
    config, data = trainer.config, trainer.data
    keys = Keys.of(1)
    state = trainer.programs.init(keys)
    by_hand = jax.jit(partial(training.step, config), compiler_options=UNOPTIMIZED)
    losses = []
    for _ in range(config.eval_every):
        state, value = by_hand(state, data=data, keys=keys, learning_rate=jnp.float32(RATE))
        losses.append(value)
    fitted = trainer.fit(1, RATE)
    next(fitted)
    scanned, point = next(fitted)
    assert int(scanned.step) == int(state.step) == config.eval_every
    chex.assert_trees_all_close(scanned.model, state.model, atol=1e-5)
    assert point.train_loss == pytest.approx(float(sum(losses) / len(losses)), rel=1e-5)


def test_the_loss_and_its_evaluation(trainer: Trainer):
    """The mean over all validation examples, though the last batch of them is not full."""
    config, data = trainer.config, trainer.data
    model = trainer.programs.init(Keys.of(0)).model
    inputs, targets = data.validation
    assert len(inputs) % config.batch_size
    whole = jax.jit(lambda m: m(inputs, deterministic=True), compiler_options=UNOPTIMIZED)
    logits = jax.nn.log_softmax(whole(model))
    expected = -jnp.take_along_axis(logits, targets[..., None], -1).mean()
    value, accuracy = trainer.programs.evaluate(model, data)
    assert float(value) == pytest.approx(float(expected), rel=1e-5)
    assert float(accuracy) == pytest.approx(float((logits.argmax(-1) == targets).mean()), abs=1e-6)
    start = math.log(data.num_classes)
    assert 0.5 * start < float(value) < 2 * start


def test_dropout_is_off_in_evaluation(trainer: Trainer):
    model: Any = trainer.programs.init(Keys.of(0)).model
    whole = jax.jit(loss, compiler_options=UNOPTIMIZED)
    value, _ = whole(model, *trainer.data.validation)
    dropped, _ = whole(model, *trainer.data.validation, jax.random.key(0))
    evaluated, _ = trainer.programs.evaluate(model, trainer.data)
    assert float(evaluated) == pytest.approx(float(value), rel=1e-6)
    assert float(dropped) != pytest.approx(float(value), rel=1e-6)


def at_start(block: dict[str, Any], *seeds: int) -> list[dict[str, np.ndarray]]:
    """The parameters of the language model with this block, by name, for each seed."""
    config = config_of({**LM, "model": LM["model"] | {"block": block}})
    options = training._quick_to_compile()  # as `Trainer.programs`
    make = jax.jit(lambda keys: init(config, keys).model, compiler_options=options)
    flat = [jax.tree_util.tree_leaves_with_path(make(Keys.of(seed))) for seed in seeds]
    return [{jax.tree_util.keystr(path): np.asarray(x) for path, x in leaves} for leaves in flat]


def test_arms_start_from_equal_values_wherever_they_have_the_same_tensor():
    """Another variant, width and norm: what is left the same has the same values, for each seed."""
    block = LM["model"]["block"]
    relu = {**block, "feed_forward": {"variant": "relu", "d_ff": 8}}
    wide = {**block, "feed_forward": {"variant": "geglu", "d_ff": 12}}
    first, other_seed = at_start(block, 3, 4)
    arms = at_start(relu, 3) + at_start(wide, 3)
    for arm in arms:
        shared = {k for k in first.keys() & arm.keys() if first[k].shape == arm[k].shape}
        assert len(shared) >= 7
        assert any("w_query" in name for name in shared)
        assert any("embedding" in name for name in shared)
        for name in shared:
            assert_equal_bits(first[name], arm[name])
    # the same width: the feed-forward block too, but for the branch that only one of them has
    assert {k for k in arms[0] if "w_in" in k or "w_out" in k} <= first.keys()
    drawn = {k for k in first if not np.isin(first[k], (0.0, 1.0)).all()}
    assert len(drawn) >= 7
    assert all(np.any(first[k] != other_seed[k]) for k in drawn)


def test_arms_see_the_same_batches():
    """The data's key does not depend on the model, and every step has its own batch."""
    data = load_data(config_of(LM).data, 4)
    keys = Keys.of(7)
    batches = [data.batch(keys.data, step) for step in range(3)]
    assert not np.array_equal(batches[0][0], batches[1][0])
    assert_equal_bits(data.batch(Keys.of(7).data, 2), batches[2])
    assert not np.array_equal(data.batch(Keys.of(8).data, 2)[0], batches[2][0])
    assert len({bytes(jax.random.key_data(key).tobytes()) for key in keys}) == 3


def test_a_diverging_run_stops_and_is_marked(trainer: Trainer):
    points = [point for _, point in trainer.fit(0, 1e30)]
    assert points[-1].diverged
    assert not any(point.diverged for point in points[:-1])
    assert points[-1].step < trainer.config.steps


@pytest.mark.parametrize(
    ("train", "validation", "step", "diverged"),
    [
        (math.nan, 1.0, 0, False),
        (math.nan, 1.0, 1, True),
        (1.0, math.inf, 1, True),
        (1.0, math.nan, 0, True),
        (-math.inf, 1.0, 2, True),
        (1.0, 1.0, 2, False),
    ],
)
def test_what_diverged_means(train: float, validation: float, step: int, diverged: bool):
    assert Point(step, train, validation, 0.0, 1.0).diverged is diverged


TOKENS, IMAGES = jnp.zeros((2, 8), jnp.int32), jnp.zeros((2, 8, 8, 1))


@pytest.mark.parametrize(
    ("plain", "model", "inputs", "lines"),
    [
        (LM, {"vocab_size": 255}, TOKENS,
         ["model.vocab_size = 255: the data needs at least 256"]),
        (LM, {"vocab_size": 9, "max_positions": 7}, TOKENS,
         ["model.vocab_size = 9: the data needs at least 256",
          "model.max_positions = 7: the data needs at least 8"]),
        (LM, {}, IMAGES,
         ["model.kind = 'transformer': the data holds images, which need kind: mlp"]),
        (DIGITS, {}, TOKENS,
         ["model.kind = 'mlp': the data holds tokens, which need kind: transformer"]),
        (DIGITS, {"d_in": 63, "num_classes": 256}, IMAGES,
         ["model.d_in = 63: must equal the size of an image = 64"]),
        (DIGITS, {"d_in": 65, "num_classes": 9}, IMAGES,
         ["model.d_in = 65: must equal the size of an image = 64",
          "model.num_classes = 9: the data needs at least 256"]),
    ],
)  # fmt: skip
def test_misfits_are_a_line_each(plain: Any, model: Any, inputs: jax.Array, lines: list[str]):
    config = config_of({**plain, "model": plain["model"] | model})
    with pytest.raises(ConfigError) as caught:
        Trainer(config, data_like(inputs))
    assert str(caught.value).splitlines() == lines


def data_like(inputs: jax.Array) -> Any:
    """Data whose examples have this shape, with 256 classes: found before anything is compiled."""
    digits: Any = load_data(config_of(DIGITS).data, 4)

    class Data(type(digits)):
        validation = inputs, jnp.zeros(len(inputs), jnp.int32)
        num_classes = 256

    fields = {f.name: getattr(digits, f.name) for f in dataclasses.fields(digits)}
    data = object.__new__(Data)
    vars(data).update({k: v for k, v in fields.items() if k != "num_classes"})
    return data


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"steps": 0}, "steps = 0: must be above 0"),
        ({"eval_every": 5}, "eval_every = 5: must divide steps = 12; nearest: 4"),
        ({"eval_every": -1}, "eval_every = -1: must be above 0"),
        ({"checkpoint_every": 6},
         "checkpoint_every = 6: must be a multiple of eval_every = 4; nearest: 8"),
        ({"checkpoint_every": 0},
         "checkpoint_every = 0: must be a multiple of eval_every = 4; nearest: 4"),
        ({"seed": -1}, "seed = -1: must lie in [0, 2**32)"),
        ({"seed": 2**32}, "seed = 4294967296: must lie in [0, 2**32)"),
    ],
)  # fmt: skip
def test_bad_numbers_are_a_line_each(changes: dict[str, Any], line: str):
    with pytest.raises(ConfigError) as caught:
        config_of(DIGITS, **changes)
    assert str(caught.value).startswith(line)
    assert len(caught.value.problems) == 1


def test_a_run_is_the_same_whether_its_health_is_measured(monkeypatch: pytest.MonkeyPatch):
    """Bit for bit: parameters, optimizer and losses; and every point has a number a layer."""
    batches = list[int]()

    def spied(model: Any, inputs: Any, targets: Any) -> Any:
        batches.append(len(inputs))
        return health(model, inputs, targets)

    monkeypatch.setattr(training, "health", spied)
    measured = list(trainer_of(DIGITS).fit(0, RATE))
    assert batches == [DIGITS["batch_size"]]
    monkeypatch.setattr(training, "health", lambda *_: {})
    alone = list(trainer_of(DIGITS).fit(0, RATE))
    for (state, point), (other, quiet) in zip(measured, alone, strict=True):
        assert_equal_bits(state, other)
        assert repr(point[1:4]) == repr(quiet[1:4])
        assert {len(layers) for layers in point.health.values()} == {2}
        assert not quiet.health
    assert measured[0][1].health != measured[-1][1].health


def test_the_state_is_all_that_a_step_changes(trainer: Trainer):
    """What a checkpoint has to hold: the abstract state has the shapes of every state."""
    state = trainer.programs.init(Keys.of(0))
    chex.assert_trees_all_equal_shapes_and_dtypes(state, trainer.abstract_state)
    assert isinstance(state.optimizer, tuple)
    assert optax.tree.get(state.optimizer, "mu") is not None
    assert int(state.step) == 0


# --- Separate documents -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def papers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Files of one letter each: what follows a letter is known, but for where a file ends."""
    folder = tmp_path_factory.mktemp("papers")
    for name in "abcdefgh":
        (folder / name).write_text(name * 37)
    data = {"path": str(folder), "context": 48, "validation_fraction": 0.3, "validation_windows": 9}
    return LM | {"data": data | {"kind": "files", "documents": "separate"}}


def test_a_document_is_no_help_and_no_target_for_another(papers: dict[str, Any]):
    """The loss is that of each document alone, over what its own tokens predict."""
    made = trainer_of(papers)
    model = init(made.config, Keys.of(0)).model
    batch = made.data.batch(jax.random.key(3), 0)
    inputs, targets = jax.tree.map(lambda x: x[:1], batch)  # each length is compiled by itself
    targets = targets._replace(weights=targets.weights / targets.weights.mean())
    value, accuracy = jax.jit(loss)(model, inputs, targets)
    losses, correct = [], []
    for tokens, ids, labels in zip(inputs.tokens, inputs.segment_ids, targets.labels, strict=True):
        for number in np.unique(ids):
            own = np.flatnonzero(ids == number)
            logits = model(tokens[None, own], True)[0, : len(own) - (own[-1] < len(ids) - 1)]
            of_own = labels[own][: len(logits)]
            losses += optax.softmax_cross_entropy_with_integer_labels(logits, of_own).tolist()
            correct += (logits.argmax(-1) == of_own).tolist()
    assert len(losses) < inputs.tokens.size
    assert float(value) == pytest.approx(np.mean(losses), abs=1e-6)
    assert float(accuracy) == pytest.approx(np.mean(correct), abs=1e-6)
    found = jax.jit(health)(model, inputs, targets)
    assert np.isfinite([np.asarray(x).sum() for x in found.values()]).all()


def test_parts_of_a_batch_weigh_as_in_the_whole(papers: dict[str, Any]):
    """However many targets count in each part: the gradient is that of the whole batch."""
    block = papers["model"]["block"] | {"feed_forward": {"variant": "swiglu", "d_ff": 8}}
    config = config_of(papers | {"model": papers["model"] | {"block": block}})
    batch = load_data(config.data, 4).batch(jax.random.key(3), 0)
    counted = (batch[1].weights > 0).sum(1)
    assert len(set(counted.tolist())) > 1
    model, key = init(config, Keys.of(0)).model, jax.random.key(0)
    _, whole, expected = jax.jit(training._gradient)(model, *batch, key)
    in_parts = jax.jit(partial(training._accumulated, parts=4))
    _, value, gradient = in_parts(model, *batch, key)
    assert float(value) == pytest.approx(float(whole), abs=1e-6)
    for one, other in zip(*map(jax.tree.leaves, (gradient, expected)), strict=True):
        np.testing.assert_allclose(one, other, atol=5e-6)  # measured: 2e-6


def test_health_is_of_the_model_that_is_trained():
    """Windows and rotary positions of each layer's own: the logits are the model's."""
    pattern = ({"window": 2, "rotary": {"theta": 10.0}}, {"window": None})
    block = LM["model"]["block"] | {"attention": {"num_heads": 2}}
    model = LM["model"] | {"num_layers": 2, "pattern": pattern, "block": block}
    config = config_of(LM | {"model": model})
    state = init(config, Keys.of(0))
    tokens = jax.random.randint(jax.random.key(0), (2, 12), 0, 256)
    ours, _ = of_transformer(state.model, tokens)
    np.testing.assert_allclose(ours, state.model(tokens, True), atol=1e-5)
