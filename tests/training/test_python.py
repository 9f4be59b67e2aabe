"""Parts of a person's own: models against flax trained by hand, data, optimizers, their errors."""

import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import chex
import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx

import gelu_jax as gj
from gelu_jax.errors import ConfigError
from gelu_jax.importing import fingerprint, reference, resolve
from gelu_jax.training.config import from_dict, to_dict
from gelu_jax.training.data import PythonData, load_data
from gelu_jax.training.data.python import Source
from gelu_jax.training.optimizer import (
    OptimizerConfig,
    PythonOptimizer,
    PythonSchedule,
    make_optimizer,
    rates,
)
from gelu_jax.training.python_model import PythonModel
from gelu_jax.training.trainer import TrainConfig, Trainer

_DRAW = np.random.default_rng(0)
INPUTS = _DRAW.normal(size=(24, 6)).astype(np.float32)
TARGETS = _DRAW.integers(0, 3, 24)
BATCHES = [(INPUTS[i : i + 8], TARGETS[i : i + 8]) for i in (0, 8)]
HELD_OUT = INPUTS[16:], TARGETS[16:]
SGD = OptimizerConfig("sgd", schedule="constant", b1=0.0, clip_norm=None)
RATE = 0.1


class NNX(nnx.Module):
    def __init__(self, width: int = 8, *, rngs: nnx.Rngs):
        self.first = nnx.Linear(6, width, rngs=rngs)
        self.norm = nnx.BatchNorm(width, momentum=0.5, rngs=rngs)
        self.dropout = nnx.Dropout(0.0, rngs=rngs)
        self.last = nnx.Linear(width, 3, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.last(self.dropout(jnp.tanh(self.norm(self.first(x)))))


class Linen(linen.Module):
    @linen.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = linen.BatchNorm(use_running_average=not train, momentum=0.5)(linen.Dense(8)(x))
        return linen.Dense(3)(linen.Dropout(0.0, deterministic=not train)(jnp.tanh(x)))


def pair() -> tuple[Any, Any]:
    def init(key: jax.Array, inputs: jax.Array) -> Any:
        return {"w": jax.random.normal(key, (inputs.shape[-1], 3))}

    def apply(params: Any, rng: jax.Array, inputs: jax.Array) -> jax.Array:
        return inputs @ params["w"]

    return init, apply


def data() -> Any:
    return BATCHES, HELD_OUT


def trainer_of(model: Any, source: Any = data, **more: Any) -> Trainer:
    model = model if isinstance(model, PythonModel) else PythonModel(factory=model)
    fields = {"steps": 2, "batch_size": 8, "eval_every": 1, "optimizer": SGD, **more}
    config = TrainConfig(data=PythonData(factory=source), model=model, **fields)
    return Trainer(config, load_data(config.data, config.batch_size))


def nnx_by_hand(module: Any, batches: Any) -> Any:
    def loss(module: Any, x: Any, y: Any) -> Any:
        return optax.softmax_cross_entropy_with_integer_labels(module(x), y).mean()

    module.train()
    optimizer = nnx.Optimizer(module, optax.sgd(RATE), wrt=nnx.Param)
    for x, y in batches:
        optimizer.update(module, nnx.grad(loss)(module, x, y))
    module.eval()
    return float(loss(module, *HELD_OUT))


def test_an_nnx_module_is_trained_as_flax_does_by_hand():
    """Two steps with batch statistics: the loss on held-out data within 1e-6."""
    (_, *_), (_, _), (state, point) = trainer_of(NNX).fit(0, RATE)
    module = NNX(rngs=nnx.Rngs(jax.random.split(jax.random.key(0), 3)[0]))
    assert point.validation_loss == pytest.approx(nnx_by_hand(module, BATCHES), abs=1e-6)
    trained: Any = state.model.module
    np.testing.assert_allclose(trained.norm.mean[...], module.norm.mean[...], atol=1e-6)
    np.testing.assert_allclose(trained.last.kernel[...], module.last.kernel[...], atol=1e-6)


def test_a_linen_module_is_trained_as_flax_does_by_hand():
    *_, (state, point) = trainer_of(Linen).fit(0, RATE)
    key = jax.random.split(jax.random.key(0), 3)[0]
    module, variables = Linen(), Linen().init(key, INPUTS[:1], train=False)

    def loss(params: Any, stats: Any, x: Any, y: Any, train: bool) -> Any:
        found = module.apply(
            {"params": params, "batch_stats": stats}, x, train, mutable=["batch_stats"]
        )
        return optax.softmax_cross_entropy_with_integer_labels(found[0], y).mean(), found[1]

    params, stats = variables["params"], variables["batch_stats"]
    for x, y in BATCHES:
        gradient, after = jax.grad(loss, has_aux=True)(params, stats, x, y, True)
        params = jax.tree.map(lambda p, g: p - RATE * g, params, gradient)
        stats = after["batch_stats"]
    assert point.validation_loss == pytest.approx(
        float(loss(params, stats, *HELD_OUT, False)[0]), abs=1e-6
    )
    chex.assert_trees_all_close(state.model.params, params, atol=1e-6)


def test_a_pair_of_functions_and_a_loss_of_its_own():
    """Haiku's order of arguments; squared errors, whose gradient is known in closed form."""

    def squares(model: Any, inputs: Any, targets: Any) -> Any:
        return jnp.square(model(inputs) - jax.nn.one_hot(targets, 3)).sum(-1)

    trainer = trainer_of(PythonModel(factory=pair, loss=squares), steps=1)
    (start, first), (end, last) = trainer.fit(0, RATE)
    x, y = INPUTS[:8], np.eye(3)[TARGETS[:8]]
    w = np.asarray(start.model.params["w"])
    expected = w - RATE * 2 * x.T @ (x @ w - y) / 8
    np.testing.assert_allclose(end.model.params["w"], expected, atol=1e-5)
    held = np.square(HELD_OUT[0] @ expected - np.eye(3)[HELD_OUT[1]]).sum(-1).mean()
    assert last.validation_loss == pytest.approx(held, rel=1e-5)
    assert last.train_loss == pytest.approx(np.square(x @ w - y).sum(-1).mean(), rel=1e-5)
    assert np.isnan(first.validation_accuracy)


def ours(rngs: nnx.Rngs) -> gj.MLP:
    return gj.MLP(gj.MLPConfig(d_in=6, num_classes=3, num_layers=2, d_ff=8), rngs=rngs)


def test_our_model_by_a_factory_is_the_built_in_one_bit_for_bit():
    built_in = trainer_of(ours)
    config = gj.MLPConfig(d_in=6, num_classes=3, num_layers=2, d_ff=8)
    other = TrainConfig(**{**vars(built_in.config), "model": config})
    points = [[p for _, p in t.fit(3, RATE)] for t in (built_in, Trainer(other, built_in.data))]
    for one, two in zip(*points, strict=True):
        assert repr(one._replace(seconds=0.0)) == repr(two._replace(seconds=0.0))


class Blocks(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        config = gj.FeedForwardConfig(6, 8, variant="swiglu")
        self.blocks = nnx.List(gj.FeedForward(config, rngs=rngs) for _ in range(2))
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.head = nnx.Linear(6, 3, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        for block in self.blocks:
            x = x + self.dropout(block(x))
        return self.head(x)


def test_health_of_our_blocks_and_runs_that_resume_with_dropout():
    trainer = trainer_of(Blocks, steps=3)
    whole = list(trainer.fit(0, RATE))
    rest = list(trainer.fit(0, RATE, (whole[1][0], 0.0)))
    assert [p.validation_loss for _, p in rest] == [p.validation_loss for _, p in whole[2:]]
    state, point = whole[-1]
    module: Any = state.model.module
    block = module.blocks[0]
    hidden = jax.nn.silu(HELD_OUT[0] @ block.w_in[0]) * (HELD_OUT[0] @ block.w_in[1])
    assert point.health["largest |h|"][0] == pytest.approx(float(abs(hidden).max()), rel=1e-3)
    assert {len(layers) for layers in point.health.values()} == {2}
    assert "gradient norm" in point.health
    other = trainer.fit(0, RATE)
    assert next(other)[1].health == whole[0][1].health


class DenseAndExperts(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        config = gj.FeedForwardConfig(6, 8, variant="swiglu")
        self.dense = gj.FeedForward(config, rngs=rngs)
        self.sparse = gj.MoE(gj.MoEConfig(config, 4, 2), rngs=rngs)
        self.head = nnx.Linear(6, 3, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = x + self.dense(x)
        return self.head(x + self.sparse(x))


def test_health_of_experts_in_a_module():
    """The load is that of the module's own router; what a layer does not have is NaN."""
    state, point = list(trainer_of(DenseAndExperts, steps=2).fit(0, RATE))[-1]
    module: Any = state.model.module
    x = jnp.asarray(HELD_OUT[0])
    _, routing = module.sparse.with_routing(x + module.dense(x))
    found = [point.health[f"load of expert {i}"] for i in range(1, 5)]
    assert all(math.isnan(dense) for dense, _ in found)
    assert [sparse for _, sparse in found] == pytest.approx(routing.load.tolist(), rel=1e-3)
    assert math.isnan(point.health["sparsity"][1])
    assert all(math.isfinite(norm) for norm in point.health["gradient norm"])


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: 3, "must return an NNX or Linen module, or a pair (init, apply), not int"),
        (lambda: 1 / 0, "test_python.py:"),
        (partial(NNX, rngs=nnx.Rngs(0), depth=3), "unexpected keyword argument 'depth'"),
        (lambda rngs: nnx.Linear(5, 3, rngs=rngs), "model.factory = "),
    ],
)
def test_what_fails_in_a_factory_is_one_line(made: Any, message: str):
    with pytest.raises(ConfigError) as caught:
        trainer_of(made).programs  # noqa: B018
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda model, x, y: model(x).mean(), "returns the shape () for 8 examples"),
        (None, "without a loss of its own it needs floating logits"),
    ],
)
def test_a_loss_that_does_not_fit_is_one_line(loss: Any, message: str):
    made = PythonModel(factory=lambda: (lambda key: {"w": jnp.ones(6)}, lambda p, x: x @ p["w"]))
    with pytest.raises(ConfigError, match=r"^model\.loss") as caught:
        trainer_of(PythonModel(factory=made.factory, loss=loss)).programs  # noqa: B018
    assert message in str(caught.value)


def as_list() -> Any:
    return BATCHES, [tuple(x[:5] for x in HELD_OUT), tuple(x[5:] for x in HELD_OUT)]


def as_grain() -> Any:
    return grain.MapDataset.range(2).map(lambda i: BATCHES[i]), HELD_OUT


class Loader:
    def __iter__(self) -> Iterator[Any]:
        return iter([list(batch) for batch in BATCHES])  # lists, as torch's loaders give them


def as_iterable() -> Any:
    return Loader(), HELD_OUT


def as_function() -> Any:
    def batches(step: int) -> Iterator[Any]:
        while True:
            yield BATCHES[step % 2]
            step += 1

    return batches, HELD_OUT


def as_generator() -> Any:
    return (lambda: (batch for batch in BATCHES)), HELD_OUT


@pytest.mark.parametrize("make", [as_list, as_grain, as_iterable, as_function, as_generator])
def test_batches_of_every_kind_come_in_order_and_from_every_step(make: Any):
    source = load_data(PythonData(factory=make), 8)
    key, found = jax.random.key(0), []
    for steps in (range(0, 6, 2), range(3, 6, 1)):
        abstract = source.abstract_batches(steps.step)
        chunks = list(source.batches(key, steps, abstract))
        for first, chunk in zip(steps, chunks, strict=True):
            found += [(s, chunk.batch(key, s)) for s in range(first, first + steps.step)]
    assert [step for step, _ in found] == [0, 1, 2, 3, 4, 5, 3, 4, 5]
    for step, batch in found:
        chex.assert_trees_all_equal(batch, BATCHES[step % 2])
    assert source.info.hash == load_data(PythonData(factory=as_list), 8).info.hash
    assert source.num_classes == 3


def test_arrays_are_shuffled_in_every_epoch():
    source = load_data(PythonData(factory=lambda: ((INPUTS, TARGETS), HELD_OUT)), 8)
    key = jax.random.key(1)
    epochs = [[source.batch(key, 3 * e + s) for s in range(3)] for e in (0, 1)]
    orders = [np.concatenate([x for x, _ in epoch]) for epoch in epochs]
    assert not np.array_equal(*orders)
    for order in orders:
        np.testing.assert_array_equal(np.sort(order, 0), np.sort(INPUTS, 0))


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ((iter(BATCHES), HELD_OUT), "is an iterator, which can be read only once"),
        (([], HELD_OUT), "gives no batch to train on"),
        ((BATCHES, []), "holds out no example"),
        ((BATCHES,), "must return a pair (training, validation), not tuple"),
        (([INPUTS], HELD_OUT), "a batch must be a pair (inputs, targets), not ndarray"),
        (([(INPUTS, TARGETS)], HELD_OUT), "batch 0 has 24 examples, batch_size is 8"),
        (((INPUTS, TARGETS[:9]), HELD_OUT), "the arrays for training have 9, 24 examples"),
        (([(INPUTS[:8], np.array(["a"] * 8))], HELD_OUT), "holds <U1; arrays must be of numbers"),
    ],
)
def test_data_that_do_not_fit_are_one_line(made: Any, message: str):
    with pytest.raises(ConfigError, match=r"^data\.factory") as caught:
        load_data(PythonData(factory=lambda: made), 8)
    assert message in str(caught.value)


def test_a_batch_of_another_shape_is_named():
    source = Source([*BATCHES, (INPUTS[:8, :5], TARGETS[:8])], 8, "mine")
    with pytest.raises(ConfigError, match=r"batch 2 is float32\[8, 5\]"):
        list(zip(range(3), source.batches(0, 0), strict=False))


def test_an_optimizer_of_optax_by_its_name_is_that_of_optax():
    config = PythonOptimizer(factory="optax:lion", learning_rate=1e-2, arguments={"b1": 0.8})
    config = from_dict(to_dict(config), PythonOptimizer)
    params = {"w": jnp.linspace(-1, 1, 4)}
    ours, plain = (
        make_optimizer(config, 5, 1e-2),
        optax.lion(optax.cosine_decay_schedule(1e-2, 5), b1=0.8),
    )
    for optimizer in (ours, plain):
        p, state = params, optimizer.init(params)
        for i in range(3):
            updates, state = optimizer.update({"w": jnp.cos(p["w"] + i)}, state, p)
            p = optax.apply_updates(p, updates)
        params_after = p
        if optimizer is ours:
            first = params_after
    chex.assert_trees_all_close(first, params_after, atol=1e-7)


def test_a_schedule_of_its_own_and_an_optimizer_with_its_own_rate():
    shape = PythonSchedule(factory=lambda steps: lambda step: 1 - step / steps)
    config = OptimizerConfig(schedule=shape, warmup_steps=2)
    found = [float(rates(config, 6, 0.5)(step)) for step in range(6)]
    assert found == pytest.approx([0.25, 0.5, 0.5, 0.375, 0.25, 0.125])
    own = PythonOptimizer(factory=lambda: optax.sgd(0.3))
    assert own.peak == 1.0
    update, _ = make_optimizer(own, 5, 1.0).update(jnp.ones(2), make_optimizer(own, 5, 1.0).init(0))
    np.testing.assert_allclose(update, -0.3)
    with pytest.raises(ConfigError, match="does not take one"):
        PythonOptimizer(factory=own.factory, learning_rate=0.1)
    with pytest.raises(ConfigError, match="must return an optax transformation, not int"):
        make_optimizer(PythonOptimizer(factory=lambda: 3), 5, 1.0)


def test_a_name_stands_for_all_that_an_object_is_made_of():
    """Closures, defaults, arrays and what is called; the name says when it is gone."""

    def make(scale: Any) -> Any:
        def inner(x: Any) -> Any:
            return scale * x

        return inner

    names = {fingerprint(make(s)) for s in (1, 2, np.ones(2), np.ones(3), (1, 2), partial(make, 1))}
    assert len(names) == 6
    assert fingerprint(make(2)) == fingerprint(make(2))
    name = reference(make(5))
    assert resolve(name)(3) == 15
    with pytest.raises(ValueError, match="was defined in a notebook or script"):
        resolve(name[:-12] + 12 * "0")
    assert reference(NNX) == f"{__name__}:NNX"
    with pytest.raises(ConfigError, match=r"factory = 'my_models:make': cannot be imported"):
        PythonModel(factory="my_models:make")
    with pytest.raises(ConfigError, match=r"arguments\.depth = 3: .*:NNX takes width, rngs"):
        PythonModel(factory=NNX, arguments={"depth": 3})
    with pytest.raises(ConfigError, match=r"arguments\.width.* functools\.partial binds"):
        PythonModel(factory=NNX, arguments={"width": np.ones(2)})
