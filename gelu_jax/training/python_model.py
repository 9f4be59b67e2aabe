"""A person's own model as a run trains it: NNX or Linen modules, or an (init, apply) pair.

A run wants a pytree of parameters, whatever else changes from step to step (batch statistics, say),
and a model to call. Randomness is drawn from the step's key, so that a run stays a pure function of
its config and its seed: what a module holds of PRNG state is replaced at every call.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, cast

import jax
import jax.numpy as jnp
from flax import linen, nnx
from jaxtyping import Array, Bool, Float, Key

from gelu_jax.errors import Problem
from gelu_jax.importing import reference, resolve
from gelu_jax.training.data import Weighted
from gelu_jax.training.loss import cross_entropy
from gelu_jax.training.python import (
    Python,
    blamed,
    callable_problems,
    parameters,
    refuse,
    taken,
)

_FIELD = "model"


@dataclass(frozen=True, kw_only=True)
class PythonModel(Python):
    """A model of the person's own, made by a factory.

    The factory returns an NNX module, a Linen module, or a pair of functions (init, apply):
    ``init(key, inputs)`` or ``init(key)`` makes the parameters, ``apply(params, inputs)`` or
    ``apply(params, rng, inputs)`` the outputs. The factory is given
    ``rngs``, an `nnx.Rngs`, or ``key`` where it has such a parameter. The model is called as
    ``model(inputs)``, and where its call (or `apply`) has these parameters, with ``train`` or
    ``training`` (True for a step, False for an evaluation), ``deterministic`` (the opposite),
    ``dropout_key`` (None in an evaluation), ``key``, ``rng`` or ``rngs``. NNX modules are also
    switched by ``module.train()`` and ``module.eval()``.

    By default the outputs are logits (..., classes), and the loss the cross-entropy of the integer
    targets. Where the data keep documents separate, the inputs are a pair (tokens, segment_ids),
    and the targets a pair (labels, weights).

    Attributes:
      loss: ``module:function``, or the function itself: ``loss(model, inputs, targets)`` returns
        one value per example or target, (b, ...), alone or in a pair with whether each was
        predicted. It is given ``train`` and ``key`` where it has such a parameter.
      width: the argument that is the width of the hidden layers, which `match` sets; None leaves
        the model as it is.

    Raises:
      ConfigError: a function cannot be imported, or the arguments do not fit.

    >>> from flax import nnx
    >>> model = PythonModel(factory=nnx.Linear, arguments={"in_features": 2, "out_features": 3})
    >>> model.factory
    'flax.nnx.nn.linear:Linear'
    """

    loss: str | Callable[..., Any] | None = None
    width: str | None = None

    def __post_init__(self) -> None:
        if self.loss is not None:
            object.__setattr__(self, "loss", reference(self.loss))
        super().__post_init__()

    def _problems(self) -> Iterator[Problem]:
        yield from super()._problems()
        yield from callable_problems(loss=self.loss)
        if self.width is not None and not isinstance(self.arguments.get(self.width), int):
            reason = "must be the name of one of the arguments, which is an integer"
            yield Problem("width", self.width, reason)


@dataclass(frozen=True)
class Call:
    """How a model is called.

    Attributes:
      key: draws dropout and the like; None in an evaluation.
    """

    key: Key[Array, ""] | None

    @property
    def train(self) -> bool:
        """Whether it is a step of training."""
        return self.key is not None

    @property
    def drawn(self) -> Key[Array, ""]:
        """A key for what wants one in an evaluation, too."""
        return jax.random.key(0) if self.key is None else self.key

    def taken(self, function: Callable[..., Any]) -> dict[str, Any]:
        """What is passed to a function by name.

        Args:
          function: a model or a part of it.

        Returns:
          The keyword arguments that it takes.
        """
        return taken(
            function,
            train=self.train,
            training=self.train,
            is_training=self.train,
            deterministic=not self.train,
            dropout_key=self.key,
            key=self.drawn,
            rng=self.drawn,
            rngs=nnx.Rngs(self.drawn),
        )


class Definition(ABC):
    """What is known of a model beside its numbers; equal where the configs are.

    Args:
      config: of the model.
    """

    def __init__(self, config: PythonModel):
        self.config = config

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Definition) and self.config == other.config

    def __hash__(self) -> int:
        return hash((self.config.factory, self.config.loss))

    @abstractmethod
    def bind(self, network: "Network", call: Call) -> tuple[Any, Callable[[], Any]]:
        """Makes the model that is called.

        Args:
          network: its numbers.
          call: how it is called.

        Returns:
          The model, and a function that gives its state as it is after the call.
        """


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Network:
    """A person's own model.

    Attributes:
      params: what is learned, a pytree of floating arrays.
      state: what else changes from step to step, such as batch statistics.
      definition: what kind of model it is.
    """

    params: Any
    state: Any
    definition: Definition = field(metadata={"static": True})

    def scores(
        self, inputs: Any, targets: Any, key: Key[Array, ""] | None
    ) -> tuple[Float[Array, "b ..."], Bool[Array, "b ..."] | Float[Array, "b ..."], Any]:
        """Computes the loss of each example.

        Args:
          inputs: of the batch.
          targets: of the batch.
          key: draws dropout and the like; None in an evaluation.

        Returns:
          The losses, whether each target was predicted (NaN where the loss does not say), and the
          state after the call.

        Raises:
          ConfigError: the model or the loss failed, or returned something else.
        """
        call = Call(key)
        with blamed(f"{_FIELD}.factory", self.definition.config.factory):
            model, state = self.definition.bind(self, call)
            return *self._scores(model, inputs, targets, call), state()

    def observed(
        self, inputs: Any, targets: Any, prepare: Callable[[nnx.Module], None]
    ) -> tuple[Float[Array, "b ..."], Any]:
        """Evaluates an NNX module after a change to it that records something.

        Args:
          inputs: of the batch.
          targets: of the batch.
          prepare: makes some of its parts leave values behind, as `nnx.Intermediate`.

        Returns:
          The loss of each target, and what was left behind.
        """
        call = Call(None)
        module: Any = cast(_NNX, self.definition).module(self, call)
        prepare(module)
        model = _Called(module, call.taken(type(module).__call__))
        return self._scores(model, inputs, targets, call)[0], nnx.pop(module, nnx.Intermediate)

    @property
    def module(self) -> nnx.Module | None:
        """The NNX module, as it is evaluated; None for a model of another kind."""
        made = self.definition
        return made.module(self, Call(None)) if isinstance(made, _NNX) else None

    def _scores(
        self, model: Any, inputs: Any, targets: Any, call: Call
    ) -> tuple[Float[Array, "b ..."], Array]:
        name = self.definition.config.loss
        if name is None:
            return _cross_entropy(model(inputs), targets)
        loss = resolve(str(name))
        with blamed(f"{_FIELD}.loss", name):
            found = loss(model, inputs, targets, **call.taken(loss))
        return _checked(found, len(jax.tree.leaves(inputs)[0]), name)


def make_network(config: PythonModel, key: Key[Array, ""], inputs: Any) -> Network:
    """Makes a model and draws its parameters.

    Args:
      config: of the model.
      key: draws the parameters.
      inputs: shapes and dtypes of a batch's inputs.

    Returns:
      The model.

    Raises:
      ConfigError: the factory failed, or made something else.
    """
    made = config.make(_FIELD, rngs=nnx.Rngs(key), key=key)
    example = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), inputs)
    with blamed(f"{_FIELD}.factory", config.factory):
        if isinstance(made, nnx.Module):
            return _NNX.network(config, made)
        if isinstance(made, linen.Module):
            return _Linen.network(config, made, key, example)
        if isinstance(made, tuple) and len(cast(tuple[Any, ...], made)) == 2:
            first, second = cast(tuple[Any, Any], made)
            return _Pair.network(config, first, second, key, example)
    reason = "must return an NNX or Linen module, or a pair (init, apply)"
    raise refuse(f"{_FIELD}.factory", f"{reason}, not {type(made).__name__}", config.factory)


class _NNX(Definition):
    def __init__(self, config: PythonModel, graph: Any, rng_state: Any):
        super().__init__(config)
        self.graph, self.rng_state = graph, rng_state

    @classmethod
    def network(cls, config: PythonModel, module: nnx.Module) -> Network:
        graph, params, rng_state, rest = nnx.split(module, _is_learned, nnx.RngState, ...)
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), rng_state)
        return Network(params, rest, cls(config, graph, shapes))

    def bind(self, network: Network, call: Call) -> tuple[Any, Callable[[], Any]]:
        module = self.module(network, call)

        def state() -> Any:
            nnx.pop(module, nnx.Intermediate)
            return nnx.split(module, _is_learned, nnx.RngState, ...)[3]

        return _Called(module, call.taken(type(module).__call__)), state

    def module(self, network: Network, call: Call) -> Any:
        rng_state = _drawn(self.rng_state, call.drawn)
        states = network.params, rng_state, network.state
        module = nnx.merge(self.graph, *states, copy=True)  # those of this very trace
        module.train() if call.train else module.eval()
        return module


def _is_learned(path: Any, variable: Any) -> bool:
    return isinstance(variable, nnx.Param) and jnp.issubdtype(variable.dtype, jnp.floating)


def _drawn(rng_state: Any, key: Key[Array, ""]) -> Any:
    """PRNG state with keys drawn from the step's own, and counts of zero."""
    leaves, structure = jax.tree.flatten(rng_state)
    drawn = [
        jax.random.split(jax.random.fold_in(key, number), leaf.shape)
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        else jnp.zeros(leaf.shape, leaf.dtype)
        for number, leaf in enumerate(leaves)
    ]
    return jax.tree.unflatten(structure, drawn)


class _Called:
    """A module that is called with what it takes; all else of it is as it was."""

    def __init__(self, module: Any, taken: dict[str, Any]):
        self.module, self.taken = module, taken

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **{**self.taken, **kwargs})

    def __getattr__(self, name: str) -> Any:
        return getattr(self.module, name)


class _Linen(Definition):
    def __init__(self, config: PythonModel, module: linen.Module):
        super().__init__(config)
        self.module = module

    @classmethod
    def network(
        cls, config: PythonModel, module: linen.Module, key: Key[Array, ""], inputs: Any
    ) -> Network:
        mode = Call(None).taken(module.__call__)
        variables: Any = linen.meta.unbox(module.init(_streams(key), inputs, **mode))
        state = {k: v for k, v in variables.items() if k not in ("params", "intermediates")}
        return Network(variables.get("params", {}), state, cls(config, module))

    def bind(self, network: Network, call: Call) -> tuple[Any, Callable[[], Any]]:
        return (model := _LinenCalled(self.module, network, call)), lambda: model.state


class _LinenCalled:
    """A Linen module with its variables; a call in training updates its state."""

    def __init__(self, module: linen.Module, network: Network, call: Call):
        self.module, self.call = module, call
        self.params, self.state = network.params, network.state

    def __call__(self, *args: Any, method: Any = None, **kwargs: Any) -> Any:
        mode = self.call.taken(method or self.module.__call__)
        variables = {"params": self.params, **self.state}
        mutable: Any = list(self.state) if self.call.train else False
        found: Any = self.module.apply(
            variables,
            *args,
            rngs=_streams(self.call.drawn),
            method=method,
            mutable=mutable,
            **{**mode, **kwargs},
        )
        if mutable is False:
            return found
        outputs, state = found
        self.state = {**self.state, **state}
        return outputs


def _streams(key: Key[Array, ""]) -> dict[str, Any]:
    """Keys by the names of Linen's streams; others fall back to "params"."""
    return {"params": key, "dropout": jax.random.fold_in(key, 1)}


class _Pair(Definition):
    def __init__(self, config: PythonModel, apply: Callable[..., Any]):
        super().__init__(config)
        self.apply = apply

    @classmethod
    def network(
        cls,
        config: PythonModel,
        init: Callable[..., Any],
        apply: Callable[..., Any],
        key: Key[Array, ""],
        inputs: Any,
    ) -> Network:
        alone = len(parameters(init)) == 1
        params: Any = init(key) if alone else init(key, inputs)
        for path, leaf in jax.tree_util.tree_leaves_with_path(params):
            if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
                name = f"init gives {jax.tree_util.keystr(path)} of {jnp.result_type(leaf)}"
                reason = f"{name}; every parameter must be a floating array"
                raise refuse(f"{_FIELD}.factory", reason, config.factory)
        return Network(jax.tree.map(jnp.asarray, params), {}, cls(config, apply))

    def bind(self, network: Network, call: Call) -> tuple[Any, Callable[[], Any]]:
        names = list(parameters(self.apply))
        wants_key_first = len(names) > 2 and names[1] in ("key", "rng")

        def model(inputs: Any, **kwargs: Any) -> Any:
            given = call.taken(self.apply)
            key = [given.pop(names[1])] if wants_key_first else []
            return self.apply(network.params, *key, inputs, **{**given, **kwargs})

        return model, dict


def _cross_entropy(logits: Any, targets: Any) -> tuple[Array, Array]:
    labels = targets.labels if isinstance(targets, Weighted) else targets
    dtypes = [getattr(x, "dtype", type(x).__name__) for x in (logits, labels)]
    floating = jnp.issubdtype(dtypes[0], jnp.floating) if hasattr(logits, "dtype") else False
    integer = hasattr(labels, "dtype") and jnp.issubdtype(dtypes[1], jnp.integer)
    if not floating or not integer or logits.shape[:-1] != labels.shape:
        shapes = [
            f"{d}{list(getattr(x, 'shape', ()))}"
            for d, x in zip(dtypes, (logits, labels), strict=True)
        ]
        needed = "floating logits (..., classes) and integer targets (...)"
        reason = f"the model gives {shapes[0]} for targets {shapes[1]}; without a loss of its own"
        raise refuse(f"{_FIELD}.loss", f"{reason} it needs {needed}")
    return cross_entropy(logits, targets)


def _checked(found: Any, size: int, name: object) -> tuple[Array, Array]:
    losses, correct = found if isinstance(found, tuple) else (found, None)
    shape = getattr(losses, "shape", ())
    if not shape or shape[0] != size:
        reason = f"returns the shape {tuple(shape)} for {size} examples; it must give a value for"
        raise refuse(f"{_FIELD}.loss", f"{reason} each, without their mean", name)
    return losses, jnp.full(shape, jnp.nan) if correct is None else correct
