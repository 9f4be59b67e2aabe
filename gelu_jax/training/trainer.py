"""One training run: init, step, evaluate, fit.

A run is a pure function of (config, seed): the model, the order of the data and dropout draw from
keys of their own, and the batch of a step is a function of (key, step). The hot path is one
compiled program, a chunk of `eval_every` scanned steps, or of fewer where the batches of so many
are large; the host only reads ahead, and logs, evaluates and saves between chunks.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key

from gelu_jax.errors import Problem, check
from gelu_jax.nn import checks
from gelu_jax.nn.axes import with_sharding_constraint
from gelu_jax.nn.mlp import MLPConfig
from gelu_jax.training import balance
from gelu_jax.training.data import Batches, DataConfig, Dataset, Packed
from gelu_jax.training.health import health, rounded
from gelu_jax.training.loss import cross_entropy
from gelu_jax.training.mesh import (
    MeshConfig,
    make_mesh,
    mesh_problems,
    replicate,
    shardings,
    use_mesh,
    with_shardings,
)
from gelu_jax.training.model import (
    Model,
    ModelConfig,
    architecture,
    learned,
    make_model,
    with_learned,
    with_weights,
)
from gelu_jax.training.optimizer import (
    Optimizer,
    OptimizerConfig,
    length_problems,
    make_optimizer,
)
from gelu_jax.training.python_model import Network, PythonModel

_ADAMW = OptimizerConfig()


@dataclass(frozen=True)
class TrainConfig:
    """What a run is: its data, model and optimizer, its length, and how often it is evaluated.

    Attributes:
      data: the source of the data.
      model: the network.
      steps: optimizer steps in all.
      batch_size: examples in a step: windows of text, or images.
      eval_every: steps between evaluations; divides `steps`.
      optimizer: the optimizer and its schedule.
      checkpoint_every: steps between checkpoints, a multiple of `eval_every`; None saves the state
        only where the run ends.
      seed: in [0, 2³²); decides the initial values, the order of the data and dropout.
      mesh: how the run is spread over several devices; None is one device.
      gradient_accumulation_steps: parts that a batch is computed in, one after the other, to save
        memory; divides `batch_size`. The step is that of the whole batch, within rounding.
      ema_decay: of an exponential moving average of the parameters, which is then what is evaluated
        and kept; in [0, 1). The decay of step t is at most (1 + t) / (10 + t). None keeps none.
      keep_best: also keeps the state with the lowest validation loss, in `best`, beside the last.
      early_stopping_patience: evaluations without a new lowest validation loss after which the run
        stops before its last step. It is on record as "stopped", and a comparison takes its final
        loss as unknown (censored). None never stops.
      start: the directory of a finished run of the same model, to train it longer: the run begins
        with its state, step and curve. Its schedule is this run's: "constant" and "wsd" continue
        without a jump.
    """

    data: DataConfig
    model: ModelConfig
    steps: int
    batch_size: int
    eval_every: int
    optimizer: Optimizer = _ADAMW
    checkpoint_every: int | None = None
    seed: int = 0
    mesh: MeshConfig | None = None
    gradient_accumulation_steps: int = 1
    ema_decay: float | None = None
    keep_best: bool = False
    early_stopping_patience: int | None = None
    start: str | None = None

    def __post_init__(self):
        check(self._problems())

    def _problems(self) -> Iterator[Problem]:
        parts = self.gradient_accumulation_steps
        yield from checks.positive(gradient_accumulation_steps=parts)
        yield from checks.divides(self.batch_size, "batch_size", gradient_accumulation_steps=parts)
        yield from checks.below_one(ema_decay=self.ema_decay or 0.0)
        if self.early_stopping_patience is not None:
            yield from checks.positive(early_stopping_patience=self.early_stopping_patience)
        yield from checks.positive(steps=self.steps, eval_every=self.eval_every)
        yield from checks.divides(self.steps, "steps", eval_every=self.eval_every)
        if self.steps >= 2**31:  # they are counted in int32
            yield Problem("steps", self.steps, "must be below 2**31")
        yield from length_problems(self.optimizer, self.steps)
        every = self.checkpoint_every
        if every is not None and (every <= 0 or every % self.eval_every):
            best = max(1, round(every / self.eval_every)) * self.eval_every
            reason = f"must be a multiple of eval_every = {self.eval_every}; nearest: {best}"
            yield Problem("checkpoint_every", every, reason)
        if not 0 <= self.seed < 2**32:  # a key takes no more bits: 2**32 would be 0 again
            yield Problem("seed", self.seed, "must lie in [0, 2**32)")


class State(NamedTuple):
    """All that a step changes.

    Attributes:
      model: the parameters, as a module.
      optimizer: optax's state.
      step: how many steps have been taken.
      average: of the parameters, where `ema_decay` asks for one.
    """

    model: Model
    optimizer: optax.OptState
    step: Int[Array, ""]
    average: Any = None

    @property
    def evaluated(self) -> Model:
        """The model that is evaluated: with the average of its parameters, if there is one."""
        return self.model if self.average is None else with_learned(self.model, self.average)


class Keys(NamedTuple):
    """One PRNG key for each use: arms that share a seed share the order of their data.

    Attributes:
      init: draws the initial parameters.
      data: draws the batches.
      dropout: draws what is dropped.
    """

    init: Key[Array, ""]
    data: Key[Array, ""]
    dropout: Key[Array, ""]

    @classmethod
    def of(cls, seed: int) -> "Keys":
        """The keys of a seed.

        Args:
          seed: in [0, 2³²).

        Returns:
          Three keys that share nothing.
        """
        return cls(*jax.random.split(jax.random.key(seed), 3))


class Point(NamedTuple):
    """What is known at one evaluation.

    Attributes:
      step: steps taken.
      train_loss: nats, the mean over the steps since the evaluation before; NaN at step 0.
      validation_loss: nats, the mean over all validation examples.
      validation_accuracy: the share of their targets that were predicted.
      seconds: spent on training since step 0, without evaluations.
      health: a number for each layer, by the names of `gelu_jax.training.health`.
    """

    step: int
    train_loss: float
    validation_loss: float
    validation_accuracy: float
    seconds: float
    health: Mapping[str, tuple[float, ...]] = MappingProxyType({})

    @property
    def diverged(self) -> bool:
        """Whether a loss is no longer finite; at step 0 there is no training loss yet."""
        finite = math.isfinite(self.validation_loss)
        return not finite or (self.step > 0 and not math.isfinite(self.train_loss))


def init(config: TrainConfig, keys: Keys, inputs: Any = None) -> State:
    """Makes the state before the first step; a pretrained model's weights are not loaded here.

    Args:
      config: the run.
      keys: the keys of its seed.
      inputs: shapes and dtypes of a batch's inputs, which models of a person's own may need.

    Returns:
      The state at step 0.
    """
    model = make_model(config.model, keys.init, inputs)
    optimizer = make_optimizer(config.optimizer, config.steps, 0.0)
    params = learned(model)
    average = None if config.ema_decay is None else params
    return State(model, optimizer.init(params), jnp.zeros((), jnp.int32), average)


def loss(
    model: Model, inputs: Any, targets: Any, dropout_key: Array | None = None
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The mean of −log p(target), and accuracy, over all targets.

    Args:
      model: maps `inputs` to logits (..., classes).
      inputs: token numbers (b, t), `Packed`, or images (b, height, width, channels).
      targets: the class of each logit vector, or `Weighted`.
      dropout_key: draws dropout; None leaves it off.

    Returns:
      The loss in nats and the share of targets with the highest logit, both float32 scalars.
    """
    losses, correct, *_ = _scores(model, inputs, targets, dropout_key)
    return losses.mean(), correct.mean()


def _scores(
    model: Model, inputs: Any, targets: Any, dropout_key: Array | None = None
) -> tuple[Float[Array, "b ..."], Array, Array, Model]:
    """The loss of each target, whether its logit is the highest, what the training loss adds to
    the mean, and the model after the call."""
    inputs = jax.tree.map(lambda x: with_sharding_constraint(x, "b"), inputs)
    if isinstance(model, Network):
        losses, correct, state = model.scores(inputs, targets, dropout_key)
        return losses, correct, jnp.zeros(()), replace(model, state=state)
    more = {}
    if isinstance(inputs, Packed):
        inputs, more = inputs.tokens, {"segment_ids": inputs.segment_ids}
    options: dict[str, Any] = {"dropout_key": dropout_key, **more}
    logits, extra, model = balance.call(model, inputs, dropout_key is None, **options)
    return *cross_entropy(logits, targets), extra, model


def step(
    config: TrainConfig, state: State, data: Batches, keys: Keys, learning_rate: Float[Array, ""]
) -> tuple[State, Float[Array, ""]]:
    """Takes one step of training.

    Args:
      config: the run.
      state: the state before the step.
      data: what holds the step's batch.
      keys: the keys of the run.
      learning_rate: the peak of the schedule; may be traced.

    Returns:
      The state after the step, and the loss before it in nats.
    """
    inputs, targets = data.batch(keys.data, state.step)
    dropout_key = jax.random.fold_in(keys.dropout, state.step)

    params, parts = learned(state.model), config.gradient_accumulation_steps
    if parts == 1:
        after, value, gradient = _gradient(state.model, inputs, targets, dropout_key)
    else:
        after, value, gradient = _accumulated(state.model, inputs, targets, dropout_key, parts)
    optimizer = make_optimizer(config.optimizer, config.steps, learning_rate)
    updates, optimizer_state = optimizer.update(
        gradient, state.optimizer, params, value=value, grad=gradient
    )
    params = balance.with_choice_biases(optax.apply_updates(params, updates), after)
    average = _average(config, state, params)
    return State(with_learned(after, params), optimizer_state, state.step + 1, average), value


def _gradient(
    model: Model, inputs: Any, targets: Any, dropout_key: Array
) -> tuple[Model, Array, Any]:
    """The model after the call, the mean loss of a batch, and its gradient."""

    def objective(params: Any) -> tuple[Array, tuple[Array, Model]]:
        scores = _scores(with_learned(model, params), inputs, targets, dropout_key)
        losses, _, extra, after = scores
        return losses.mean() + extra, (losses.mean(), after)

    gradient, (value, after) = jax.grad(objective, has_aux=True)(learned(model))
    return after, value, gradient


def _accumulated(
    model: Model, inputs: Any, targets: Any, dropout_key: Array, parts: int
) -> tuple[Model, Array, Any]:
    """The same, computed from one part of the batch after the other; sums are in float32."""

    def one(carry: tuple[Model, Any], part: Any) -> tuple[tuple[Model, Any], Array]:
        (model, total), ((x, y), number) = carry, part
        after, value, gradient = _gradient(model, x, y, jax.random.fold_in(dropout_key, number))
        return (after, jax.tree.map(lambda t, g: t + g, total, gradient)), value

    def split(x: Array) -> Array:
        return x.reshape(parts, len(x) // parts, *x.shape[1:])

    params = learned(model)
    batches = jax.tree.map(split, (inputs, targets)), jnp.arange(parts)
    zeros = jax.tree.map(lambda p: jnp.zeros(p.shape, jnp.promote_types(p, jnp.float32)), params)
    (after, total), values = jax.lax.scan(one, (model, zeros), batches)
    gradient = jax.tree.map(lambda t, p: (t / parts).astype(p.dtype), total, params)
    return after, values.mean(), gradient


def _average(config: TrainConfig, state: State, params: Any) -> Any:
    if config.ema_decay is None:
        return None
    decay = jnp.minimum(config.ema_decay, (1 + state.step) / (10 + state.step))
    return optax.incremental_update(params, state.average, 1 - decay)


def evaluate(
    model: Model, data: Dataset, batch_size: int
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Evaluates a model on all validation examples.

    Args:
      model: the model; dropout is off.
      data: the dataset.
      batch_size: examples that are computed at once.

    Returns:
      The mean loss in nats, and the accuracy.
    """
    validation: Any = data.validation
    n = len(jax.tree.leaves(validation)[0])

    def in_batches(x: Array) -> Array:  # the last one filled up with what is then left out
        filled = jnp.pad(x, [(0, -n % batch_size)] + [(0, 0)] * (x.ndim - 1))
        return filled.reshape(-1, batch_size, *x.shape[1:])

    def one(batch: tuple[Any, Any]) -> tuple[Array, Array]:
        return _scores(model, *batch)[:2]

    scores = jax.lax.map(one, jax.tree.map(in_batches, validation))
    losses, correct = (x.reshape(-1, *x.shape[2:])[:n] for x in scores)
    return losses.mean(), correct.mean()


class Programs(NamedTuple):
    """What is compiled for a config.

    Attributes:
      init: makes the state before the first step.
      chunk: takes a chunk of steps; returns the state after them and the loss of each.
      evaluate: the mean validation loss and accuracy.
      health: the health of every layer, on one batch of validation examples.
      seconds: that compiling all of them took.
    """

    init: Callable[[Keys], State]
    chunk: Callable[[State, Batches, Keys, Array], tuple[State, Array]]
    evaluate: Callable[[Model, Dataset], tuple[Array, Array]]
    health: Callable[[Model, Dataset], dict[str, Array]]
    seconds: float


class Trainer:
    """The compiled programs of one config, for every seed and learning rate.

    `fit` runs the config from a seed, or from a state, and yields at every evaluation.

    Args:
      config: the run.
      data: the dataset of `config.data`, opened with `config.batch_size`.

    Raises:
      ConfigError: the model does not fit the data, or the run does not fit the mesh.
    """

    def __init__(self, config: TrainConfig, data: Dataset):
        check(_data_problems(config.model, data))
        check(_mesh_problems(config))
        self.config, self.mesh = config, make_mesh(config.mesh)
        self.data = replicate(data, self.mesh)
        self._init = partial(init, config, inputs=example_inputs(data))
        state = jax.eval_shape(self._init, Keys.of(0))
        self.abstract_state: State = with_shardings(state, self.mesh)
        self.chunk_steps = data.chunk_steps(config.eval_every)
        batches = self.data.abstract_batches(self.chunk_steps)
        self.abstract_batches = with_shardings(batches, self.mesh, data.axes)

    @cached_property
    def programs(self) -> "Programs":
        """The compiled programs; compiled when first needed."""
        start = time.perf_counter()
        config, data, state = self.config, self.data, self.abstract_state
        keys, batches = Keys.of(0), self.abstract_batches
        learning_rate = jnp.zeros((), jnp.float32)
        size, chunk = config.batch_size, partial(_chunk, config, self.chunk_steps)
        with use_mesh(self.mesh):
            return Programs(
                _compile(self._init, keys, out=state, options=_quick_to_compile()),
                _compile(chunk, state, batches, keys, learning_rate, out=(state, None)),
                _compile(partial(evaluate, batch_size=size), state.model, data),
                _compile(partial(_health, batch_size=size), state.model, data),
                time.perf_counter() - start,
            )

    def fit(
        self, seed: int, learning_rate: float, resume: tuple[State, float] | None = None
    ) -> Iterator[tuple[State, Point]]:
        """Trains to the last step, or until the loss is no longer finite.

        Args:
          seed: of the run; `config.seed` is not read.
          learning_rate: the peak of the schedule; `config.optimizer.learning_rate` is not read.
          resume: a state that an earlier fit of the same seed and learning rate yielded, and the
            seconds of training until there; the run continues as if it had not stopped.

        Yields:
          The state and the point of every evaluation; without `resume`, of step 0 too.
        """
        keys, peak = Keys.of(seed), jnp.asarray(learning_rate, jnp.float32)
        state, seconds = resume or (self._start(keys), 0.0)
        losses = jnp.full(1, jnp.nan)
        if resume is None:
            yield state, self._point(state, losses, seconds)
        steps = range(int(state.step), self.config.steps, self.chunk_steps)
        batches = self.data.batches(keys.data, steps, self.abstract_batches)
        while state.step < self.config.steps:
            start = time.perf_counter()
            state, losses = self._advance(state, batches, keys, peak)
            seconds += time.perf_counter() - start
            point = self._point(state, losses, seconds)
            yield state, point
            if point.diverged:
                return

    def _advance(
        self, state: State, batches: Iterator[Batches], keys: Keys, learning_rate: Array
    ) -> tuple[State, Array]:
        """The state at the next evaluation, and the loss of each step until there."""
        losses: list[Array] = []
        for _ in range(self.config.eval_every // self.chunk_steps):
            # wait for each chunk: otherwise the batches of all of them would lie on the device
            state, of_chunk = jax.block_until_ready(
                self.programs.chunk(state, next(batches), keys, learning_rate)
            )
            losses.append(of_chunk)
        return state, jnp.concatenate(losses)

    def _start(self, keys: Keys) -> State:
        state = self.programs.init(keys)
        model: Any = with_weights(state.model, self.config.model)
        model = jax.device_put(model, shardings(self.abstract_state.model))
        average = None if state.average is None else learned(model)
        return state._replace(model=model, average=average)

    def _point(self, state: State, losses: Array, seconds: float) -> Point:
        model = state.evaluated
        metrics = self.programs.evaluate(model, self.data)
        train_loss, validation_loss, accuracy = map(float, (losses.mean(), *metrics))
        layers = rounded(self.programs.health(model, self.data))
        return Point(int(state.step), train_loss, validation_loss, accuracy, seconds, layers)


def example_inputs(data: Dataset) -> Any:
    """Shapes and dtypes of the inputs of one example, as a batch of one.

    Args:
      data: the dataset.

    Returns:
      The structure of the inputs, without values.
    """
    inputs: Any = data.validation[0]
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct((1, *x.shape[1:]), x.dtype), inputs)


def _data_problems(config: ModelConfig, data: Dataset) -> Iterator[Problem]:
    model, (inputs, _) = architecture(config), data.validation
    if isinstance(model, PythonModel):
        return
    if isinstance(inputs, Packed):
        inputs = inputs.tokens
    if not isinstance(inputs, jax.Array):
        reason = "a model of ours takes one array; for other inputs use kind: python"
        yield Problem("model.kind", model.kind, reason)
        return
    images = jnp.issubdtype(inputs.dtype, jnp.floating)
    if isinstance(model, MLPConfig) != images:
        held = "images, which need kind: mlp" if images else "tokens, which need kind: transformer"
        yield Problem("model.kind", model.kind, f"the data holds {held}")
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
            yield Problem(f"model.{field_name}", given, f"the data needs at least {needed}")


def _mesh_problems(config: TrainConfig) -> Iterator[Problem]:
    if config.mesh is not None:
        sizes, model = config.mesh.sizes(jax.device_count()), architecture(config.model)
        yield from mesh_problems(sizes, model, config.batch_size)


def _health(model: Model, data: Dataset, batch_size: int) -> dict[str, Array]:
    inputs, targets = jax.tree.map(lambda x: x[:batch_size], data.validation)
    return health(model, inputs, targets)


def _chunk(
    config: TrainConfig, steps: int, state: State, data: Batches, keys: Keys, learning_rate: Array
) -> tuple[State, Float[Array, " n"]]:
    def body(state: State, _: None) -> tuple[State, Array]:
        return step(config, state, data, keys, learning_rate)

    return jax.lax.scan(body, state, length=steps)


def _compile(
    f: Any, *arguments: Any, out: Any = None, options: dict[str, Any] | None = None
) -> Any:
    return jax.jit(f, out_shardings=shardings(out)).lower(*arguments).compile(options)


def _quick_to_compile() -> dict[str, Any]:
    """For a program that runs once: LLVM's expensive passes take seconds and save milliseconds."""
    return {"xla_backend_optimization_level": 1} if jax.default_backend() == "cpu" else {}
