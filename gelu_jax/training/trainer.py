"""One training run: init, step, evaluate, fit.

A run is a pure function of (config, seed): the model, the order of the data and dropout draw from
keys of their own, and the batch of a step is a function of (key, step). The hot path is one
compiled program of `eval_every` scanned steps, or of fewer where the batches of so many are large;
the host only reads ahead, and logs, evaluates and saves between.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key

from gelu_jax.errors import Problem, check
from gelu_jax.nn import checks
from gelu_jax.nn.axes import with_sharding_constraint
from gelu_jax.nn.mlp import MLPConfig
from gelu_jax.training.data import Block, DataConfig, Dataset
from gelu_jax.training.health import health, rounded
from gelu_jax.training.mesh import (
    MeshConfig,
    make_mesh,
    mesh_problems,
    replicate,
    shardings,
    use_mesh,
    with_shardings,
)
from gelu_jax.training.model import Model, ModelConfig, architecture, make_model, with_weights
from gelu_jax.training.optimizer import OptimizerConfig, make_optimizer


@dataclass(frozen=True)
class TrainConfig:
    """What a run is: its data, model and optimizer, its length, and how often it is evaluated.

    ``checkpoint_every`` steps, a multiple of ``eval_every``, the state is saved; None saves it
    where the run ends. ``mesh`` spreads the run over several devices; None means one device.
    """

    data: DataConfig
    model: ModelConfig
    steps: int
    batch_size: int
    eval_every: int
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    checkpoint_every: int | None = None
    seed: int = 0
    mesh: MeshConfig | None = None

    def __post_init__(self):
        check(self._problems())

    def _problems(self) -> Iterator[Problem]:
        yield from checks.positive(steps=self.steps, eval_every=self.eval_every)
        yield from checks.divides(self.steps, "steps", eval_every=self.eval_every)
        if self.steps >= 2**31:  # they are counted in int32
            yield Problem("steps", self.steps, "must be below 2**31")
        every = self.checkpoint_every
        if every is not None and (every <= 0 or every % self.eval_every):
            best = max(1, round(every / self.eval_every)) * self.eval_every
            reason = f"must be a multiple of eval_every = {self.eval_every}; nearest: {best}"
            yield Problem("checkpoint_every", every, reason)
        if not 0 <= self.seed < 2**32:  # a key takes no more bits: 2**32 would be 0 again
            nearest = max(0, min(self.seed, 2**32 - 1))
            yield Problem("seed", self.seed, f"must lie in [0, 2**32); nearest: {nearest}")


class State(NamedTuple):
    """All that a step changes."""

    model: Model
    optimizer: optax.OptState
    step: Int[Array, ""]


class Keys(NamedTuple):
    """One key for each thing that draws: arms that share a seed share the order of their data."""

    init: Key[Array, ""]
    data: Key[Array, ""]
    dropout: Key[Array, ""]

    @classmethod
    def of(cls, seed: int) -> "Keys":
        return cls(*jax.random.split(jax.random.key(seed), 3))


class Point(NamedTuple):
    """What is known at one evaluation; losses are means in nats, seconds are of training alone.

    ``health`` holds a number for each layer by the names of `gelu_jax.training.health`.
    """

    step: int
    train_loss: float
    validation_loss: float
    validation_accuracy: float
    seconds: float
    health: Mapping[str, tuple[float, ...]] = MappingProxyType({})

    @property
    def diverged(self) -> bool:
        """A loss is no longer finite (at step 0 there is no training loss yet)."""
        finite = math.isfinite(self.validation_loss)
        return not finite or (self.step > 0 and not math.isfinite(self.train_loss))


def init(config: TrainConfig, keys: Keys) -> State:
    """The state before the first step."""
    model: Any = make_model(config.model, rngs=nnx.Rngs(keys.init))
    optimizer = make_optimizer(config.optimizer, config.steps, 0.0)
    return State(model, optimizer.init(model), jnp.zeros((), jnp.int32))


def loss(
    model: Model, inputs: Array, targets: Int[Array, "..."], dropout_key: Array | None = None
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Mean cross-entropy in nats, and accuracy, over all targets."""
    losses, right = _scores(model, inputs, targets, dropout_key)
    return losses.mean(), right.mean()


def _scores(
    model: Model, inputs: Array, targets: Int[Array, "b ..."], dropout_key: Array | None = None
) -> tuple[Float[Array, "b ..."], Bool[Array, "b ..."]]:
    """The cross-entropy of each target, and whether it was thought the likeliest."""
    logits = model(with_sharding_constraint(inputs, "b"), dropout_key=dropout_key)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
    return losses, logits.argmax(-1) == targets


def step(
    config: TrainConfig, state: State, data: Block, keys: Keys, learning_rate: Float[Array, ""]
) -> tuple[State, Float[Array, ""]]:
    """One step of training: the next state, and the loss before it."""
    inputs, targets = data.batch(keys.data, state.step)
    dropout_key = jax.random.fold_in(keys.dropout, state.step)
    model: Any = state.model  # a module is the pytree of its parameters
    (value, _), gradient = jax.value_and_grad(loss, has_aux=True)(
        model, inputs, targets, dropout_key
    )
    optimizer = make_optimizer(config.optimizer, config.steps, learning_rate)
    updates, optimizer_state = optimizer.update(gradient, state.optimizer, model)
    model = optax.apply_updates(model, updates)
    return State(model, optimizer_state, state.step + 1), value


def evaluate(
    model: Model, data: Dataset, batch_size: int
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Mean loss and accuracy over the validation examples, batch_size at a time."""
    n = len(data.validation[0])

    def in_batches(x: Array) -> Array:  # the last one filled up with what is then left out
        filled = jnp.pad(x, [(0, -n % batch_size)] + [(0, 0)] * (x.ndim - 1))
        return filled.reshape(-1, batch_size, *x.shape[1:])

    def one(batch: tuple[Array, Array]) -> tuple[Array, Array]:
        return _scores(model, *batch)

    scores = jax.lax.map(one, tuple(in_batches(x) for x in data.validation))
    losses, right = (x.reshape(-1, *x.shape[2:])[:n] for x in scores)
    return losses.mean(), right.mean()


class Programs(NamedTuple):
    """What is compiled for a config, and the seconds that it took."""

    init: Callable[[Keys], State]
    chunk: Callable[[State, Block, Keys, Array], tuple[State, Array]]
    evaluate: Callable[[Model, Dataset], tuple[Array, Array]]
    health: Callable[[Model, Dataset], dict[str, Array]]
    seconds: float


class Trainer:
    """The compiled programs of one config, for every seed and learning rate.

    ``fit`` runs the config from a seed, or from a state, and yields at every evaluation.
    """

    def __init__(self, config: TrainConfig, data: Dataset):
        check(_misfits(config.model, data))
        check(_uneven(config))
        self.config, self.mesh = config, make_mesh(config.mesh)
        self.data = replicate(data, self.mesh)
        state = jax.eval_shape(partial(init, config), Keys.of(0))
        self.abstract_state: State = with_shardings(state, self.mesh)
        self.chunk_steps = data.block_steps(config.eval_every)
        self.abstract_block = with_shardings(self.data.like(self.chunk_steps), self.mesh, data.axes)

    @cached_property
    def programs(self) -> "Programs":
        """The compiled programs; compiled when first needed."""
        start = time.perf_counter()
        config, data, state = self.config, self.data, self.abstract_state
        keys, rate = Keys.of(0), jnp.zeros((), jnp.float32)
        size, chunk = config.batch_size, partial(_chunk, config, self.chunk_steps)
        with use_mesh(self.mesh):
            return Programs(
                _compile(partial(init, config), keys, out=state, options=_once()),
                _compile(chunk, state, self.abstract_block, keys, rate, out=(state, None)),
                _compile(partial(evaluate, batch_size=size), state.model, data),
                _compile(partial(_health, batch_size=size), state.model, data),
                time.perf_counter() - start,
            )

    def fit(
        self, seed: int, learning_rate: float, resume: tuple[State, float] | None = None
    ) -> Iterator[tuple[State, Point]]:
        """Trains to the last step, or until the loss is no longer finite.

        ``resume`` is a state that an earlier fit of the same seed and rate yielded, and the
        seconds it took until there; the run goes on from it as if it had not stopped.
        """
        keys, rate = Keys.of(seed), jnp.asarray(learning_rate, jnp.float32)
        state, seconds = resume or (self._start(keys), 0.0)
        losses = jnp.full(1, jnp.nan)
        if resume is None:
            yield state, self._point(state, losses, seconds)
        steps = range(int(state.step), self.config.steps, self.chunk_steps)
        blocks = self.data.blocks(keys.data, steps, self.abstract_block)
        while state.step < self.config.steps:
            start = time.perf_counter()
            state, losses = self._advance(state, blocks, keys, rate)
            seconds += time.perf_counter() - start
            point = self._point(state, losses, seconds)
            yield state, point
            if point.diverged:
                return

    def _advance(
        self, state: State, blocks: Iterator[Block], keys: Keys, rate: Array
    ) -> tuple[State, Array]:
        """The state at the next evaluation, and the loss of each step until there."""
        losses: list[Array] = []
        for _ in range(self.config.eval_every // self.chunk_steps):
            # each waits for the one before: else the blocks of all would lie on the device
            state, some = jax.block_until_ready(
                self.programs.chunk(state, next(blocks), keys, rate)
            )
            losses.append(some)
        return state, jnp.concatenate(losses)

    def _start(self, keys: Keys) -> State:
        state = self.programs.init(keys)
        model: Any = with_weights(state.model, self.config.model)
        return state._replace(model=jax.device_put(model, shardings(self.abstract_state.model)))

    def _point(self, state: State, losses: Array, seconds: float) -> Point:
        metrics = self.programs.evaluate(state.model, self.data)
        train_loss, validation_loss, accuracy = map(float, (losses.mean(), *metrics))
        noted = rounded(self.programs.health(state.model, self.data))
        return Point(int(state.step), train_loss, validation_loss, accuracy, seconds, noted)


def _misfits(config: ModelConfig, data: Dataset) -> Iterator[Problem]:
    model, (inputs, _) = architecture(config), data.validation
    images = jnp.issubdtype(inputs.dtype, jnp.floating)
    if isinstance(model, MLPConfig) != images:
        needed = "images: nearest: mlp" if images else "tokens: nearest: transformer"
        yield Problem("model.kind", model.kind, f"the data are {needed}")
        return
    if isinstance(model, MLPConfig):
        size = math.prod(inputs.shape[1:])
        yield from checks.equal(size, "the size of an image", {"model.d_in": model.d_in})
        least = {"num_classes": (model.num_classes, data.num_classes)}
    else:
        least = {"vocab_size": (model.vocab_size, data.num_classes)}
        if model.max_positions is not None:
            least |= {"max_positions": (model.max_positions, inputs.shape[1])}
    for field_name, (given, needed) in least.items():
        if given < needed:
            reason = f"the data needs at least {needed}; nearest: {needed}"
            yield Problem(f"model.{field_name}", given, reason)


def _uneven(config: TrainConfig) -> Iterator[Problem]:
    if config.mesh is not None:
        sizes = config.mesh.sizes(jax.device_count())
        yield from mesh_problems(sizes, architecture(config.model), config.batch_size)


def _health(model: Model, data: Dataset, batch_size: int) -> dict[str, Array]:
    inputs, targets = data.validation
    return health(model, inputs[:batch_size], targets[:batch_size])


def _chunk(
    config: TrainConfig, steps: int, state: State, data: Block, keys: Keys, learning_rate: Array
) -> tuple[State, Float[Array, " n"]]:
    def body(state: State, _: None) -> tuple[State, Array]:
        return step(config, state, data, keys, learning_rate)

    return jax.lax.scan(body, state, length=steps)


def _compile(
    f: Any, *arguments: Any, out: Any = None, options: dict[str, Any] | None = None
) -> Any:
    return jax.jit(f, out_shardings=shardings(out)).lower(*arguments).compile(options)


def _once() -> dict[str, Any]:
    """For a program that runs once: LLVM's dear passes take seconds and win milliseconds."""
    return {"xla_backend_optimization_level": 1} if jax.default_backend() == "cpu" else {}
