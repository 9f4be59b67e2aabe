"""Health of the feed-forward layers beside the loss: is the activation used, does anything grow?

At every evaluation a separate program measures it on one batch of validation examples. The programs
that train know nothing of it: a run is the same, bit for bit, whether it is measured or not.

For each layer, over all units and tokens of the batch, with the hidden layer h = ∏ᵢ φᵢ(x Wᵢ + bᵢ):

- share of dead units: those with |h| ≤ 1 % of the layer's RMS of h at every token;
- sparsity: the share of h's entries for which that holds;
- largest |h|;
- pre-activation scale: RMS of the first branch, x W₁ + b₁;
- gate–up alignment, of gated variants only: mean |cosine| between a unit's columns of W₁ and W₂
  (Fishman et al. 2024, "Scaling FP8 training to trillion-token LLMs", section 4);
- gradient norm: of the loss, over all parameters of the layer.

Of a mixture of experts, in the place of all but the last: the load of each expert (the share of
the choices that fell on it), the largest load, the share of dead experts (on which none fell),
the router's mean entropy in nats, and the mean of a token's largest gate. Where layers of both
kinds are mixed, NaN stands for what a layer does not have.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Float

from gelu_jax.nn.balance import RoutingStatistics
from gelu_jax.nn.experts import MoE
from gelu_jax.nn.feed_forward import HiddenLayer, branch_product
from gelu_jax.nn.mlp import MLP
from gelu_jax.nn.parameters import cast
from gelu_jax.nn.stack import FeedForwards, one_layer
from gelu_jax.nn.transformer import Transformer
from gelu_jax.nn.variants import branch_functions
from gelu_jax.training.data import Packed
from gelu_jax.training.loss import cross_entropy
from gelu_jax.training.model import Model
from gelu_jax.training.python_model import Network

_QUIET = 0.01  # of the layer's RMS

_Statistics = dict[str, Array]


def health(model: Model, inputs: Any, targets: Any) -> dict[str, Float[Array, " layers"]]:
    """Measures all of the list above; dropout is off.

    Args:
      model: the network.
      inputs: token numbers (b, t), `Packed`, or images.
      targets: the class of each logit vector, or `Weighted`.

    Returns:
      A float32 array (layers,) for each name in the list.
    """
    if isinstance(model, Network):
        return _network(model, inputs, targets)
    forward = _transformer if isinstance(model, Transformer) else _mlp

    def loss(model: Any) -> tuple[Array, _Statistics]:
        logits, statistics = forward(model, inputs)
        return cross_entropy(logits, targets)[0].mean(), statistics

    gradient, statistics = jax.grad(loss, has_aux=True)(model)
    return {**statistics, "gradient norm": _norms(gradient)}


def rounded(statistics: Mapping[str, Array]) -> dict[str, tuple[float, ...]]:
    """Rounds what `health` returns to four digits: enough for a curve, short in a file.

    Args:
      statistics: an array (layers,) for each name.

    Returns:
      A number for each layer, by name.
    """
    return {
        name: tuple(float(f"{x:.4g}") for x in layers.tolist())
        for name, layers in statistics.items()
    }


def _transformer(model: Transformer, inputs: Any) -> tuple[Array, _Statistics]:
    tokens, segments = inputs if isinstance(inputs, Packed) else (inputs, None)
    bias, values = model.position_bias(tokens.shape[1]), model.layer_values

    def layer(x: Array, inputs: tuple[Any, Any]) -> tuple[Array, _Statistics]:
        block, own = inputs
        place = {"segment_ids": segments, "bias": bias, "values": own}
        if isinstance(block.feed_forward, MoE):
            x, _, routing = block.attend_with_routing(x, **place, deterministic=True)
            return x, _routing(routing)
        feed_forward, statistics = block.feed_forward, _Statistics()

        def measured(h: Array, *more: Any, **dropout: Any) -> Array:
            statistics.update(_statistics(feed_forward, h))
            return feed_forward(h, *more, **dropout)

        block.feed_forward = measured
        return block.attend(x, **place, deterministic=True)[0], statistics

    layers, num_layers = model.layers, model.config.num_layers
    if model.config.shared_layers:
        layers = jax.tree.map(lambda leaf: jnp.repeat(leaf, num_layers, 0), layers)
    x = model.block_input(model.embed(tokens), segment_ids=segments)
    mixed: Any = layers.feed_forward
    over_layers: Any = _in_turn if isinstance(mixed, FeedForwards) else jax.lax.scan
    x, statistics = over_layers(layer, x, (layers, values))
    return model.logits(model.final_hidden(x)), statistics


def _in_turn(layer: Any, x: Array, inputs: tuple[Any, Any]) -> tuple[Array, _Statistics]:
    """As `jax.lax.scan`, of layers that have different statistics."""
    (layers, values), found = inputs, list[_Statistics]()
    for i in range(len(layers.feed_forward.kinds)):
        own = jax.tree.map(lambda leaf, i=i: leaf[i], values)
        x, statistics = layer(x, (one_layer(layers, i), own))
        found.append(statistics)
    return x, _stacked(found)


def _stacked(layers: list[_Statistics]) -> _Statistics:
    """An array (layers,) for each name; NaN where a layer has none of it."""
    nan = jnp.full((), jnp.nan)
    names = dict.fromkeys(name for layer in layers for name in layer)
    return {name: jnp.stack([layer.get(name, nan) for layer in layers]) for name in names}


def _routing(routing: RoutingStatistics) -> _Statistics:
    return {
        **{f"load of expert {i}": load for i, load in enumerate(routing.load, start=1)},
        "largest load": routing.load.max(),
        "share of dead experts": (routing.load == 0).mean(),
        "router entropy": routing.entropy,
        "largest gate": routing.largest_gate,
    }


def _mlp(model: MLP, images: Array) -> tuple[Array, _Statistics]:
    x, statistics = model.flatten(images), list[_Statistics]()
    for layer in model.layers:
        statistics.append(_statistics(layer, x))
        x = layer(x, deterministic=True)
    return model.logits(x), jax.tree.map(lambda *layers: jnp.stack(layers), *statistics)


def _network(network: Network, inputs: Any, targets: Any) -> dict[str, Array]:
    """The health of our blocks in an NNX module of a person's own, in the module's order."""
    module = network.module
    if isinstance(module, Transformer | MLP):
        return health(module, inputs, targets)
    paths = [] if module is None else [path for path, _ in _measurable(module)]

    def loss(params: Any) -> tuple[Array, Any]:
        changed = replace(network, params=params)
        losses, found = changed.observed(inputs, targets, _measure)
        return losses.mean(), [_at(found, (*path, _NAME)) for path in paths]

    if not paths:
        return {}
    gradient, measured = jax.grad(loss, has_aux=True)(network.params)
    layers = [
        {**found.get_value(), "gradient norm": optax.tree.norm(_at(gradient, path))}
        for path, found in zip(paths, measured, strict=True)
        if found is not None  # the model has called it
    ]
    return _stacked(layers)


_NAME = "_health"


def _measurable(module: nnx.Module) -> Iterator[tuple[Any, Any]]:
    """Our blocks, but for those in a stack, which a transformation goes through."""
    for path, part in nnx.iter_modules(module):
        dense = isinstance(part, HiddenLayer) and part.w_in[0].ndim == 2
        if dense or (isinstance(part, MoE) and part.router.w.ndim == 2):
            yield path, part


def _measure(module: nnx.Module) -> None:
    for _, part in _measurable(module):
        part.__class__ = _measured(type(part))


@cache
def _measured(cls: Any) -> Any:
    """A class of blocks that leave their health behind when they are called."""

    def call(self: Any, x: Array, *more: Any, **options: Any) -> Array:
        setattr(self, _NAME, nnx.Intermediate(_statistics(self, x)))
        return cls.__call__(self, x, *more, **options)

    def with_routing(self: Any, x: Array, *more: Any, **options: Any) -> Any:
        y, routing = cls.with_routing(self, x, *more, **options)
        setattr(self, _NAME, nnx.Intermediate(_routing(routing)))
        return y, routing

    changed = {"with_routing": with_routing} if issubclass(cls, MoE) else {"__call__": call}
    return type(cls.__name__, (cls,), changed)


def _at(tree: Any, path: Any) -> Any:
    for key in path:
        tree = tree.get(key)
        if tree is None:
            break
    return tree


def _statistics(layer: HiddenLayer, x: Float[Array, "... d"]) -> _Statistics:
    c = layer.config
    x = x.astype(c.dtype)
    w_in = [cast(w, c.dtype) for w in layer.w_in]
    b_in = None if layer.b_in is None else [cast(b, c.dtype) for b in layer.b_in]
    h = branch_product(x, w_in, variant=branch_functions(c.variant, layer.learned), b_in=b_in)
    p = branch_product(x, w_in[:1], variant=("identity",), b_in=b_in and b_in[:1])
    h, p = (jnp.abs(a.astype(jnp.float32)).reshape(-1, c.d_ff) for a in (h, p))
    quiet = h <= _QUIET * _rms(h)
    return {
        "share of dead units": quiet.all(0).mean(),
        "sparsity": quiet.mean(),
        "largest |h|": h.max(),
        "pre-activation scale": _rms(p),
        **({"gate–up alignment": _alignment(*w_in[:2])} if len(w_in) > 1 else {}),
    }


def _rms(x: Array) -> Array:
    return jnp.sqrt(jnp.square(x).mean())


def _alignment(gate: Float[Array, "d f"], up: Float[Array, "d f"]) -> Float[Array, ""]:
    gate, up = gate.astype(jnp.float32), up.astype(jnp.float32)
    lengths = jnp.linalg.norm(gate, axis=0) * jnp.linalg.norm(up, axis=0)
    return (jnp.abs((gate * up).sum(0)) / lengths).mean()


def _norms(gradient: Any) -> Float[Array, " layers"]:
    if isinstance(gradient, Transformer):
        mixed: Any = gradient.layers.feed_forward
        if isinstance(mixed, FeedForwards):
            layers = (one_layer(gradient.layers, i) for i in range(gradient.config.num_layers))
            return jnp.stack([optax.tree.norm(layer) for layer in layers])
        norms = jax.vmap(optax.tree.norm)(gradient.layers)  # of one block, where layers share it
        return jnp.broadcast_to(norms, (gradient.config.num_layers,))
    return jnp.stack([optax.tree.norm(layer) for layer in gradient.layers])
