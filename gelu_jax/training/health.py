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
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from gelu_jax.nn.feed_forward import HiddenLayer, branch_product
from gelu_jax.nn.mlp import MLP
from gelu_jax.nn.parameters import cast
from gelu_jax.nn.transformer import Transformer
from gelu_jax.nn.variants import branch_functions

_QUIET = 0.01  # of the layer's RMS

_Statistics = dict[str, Array]


def health(
    model: Transformer | MLP, inputs: Array, targets: Int[Array, "..."]
) -> dict[str, Float[Array, " layers"]]:
    """Measures all of the list above; dropout is off.

    Args:
      model: the network.
      inputs: token numbers (b, t), or images.
      targets: the class of each logit vector.

    Returns:
      A float32 array (layers,) for each name in the list.
    """
    forward = _transformer if isinstance(model, Transformer) else _mlp

    def loss(model: Any) -> tuple[Array, _Statistics]:
        logits, statistics = forward(model, inputs)
        return optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean(), statistics

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


def _transformer(model: Transformer, tokens: Array) -> tuple[Array, _Statistics]:
    def layer(x: Array, block: Any) -> tuple[Array, _Statistics]:
        feed_forward, statistics = block.feed_forward, _Statistics()

        def measured(h: Array, *more: Any, **dropout: Any) -> Array:
            statistics.update(_statistics(feed_forward, h))
            return feed_forward(h, *more, **dropout)

        block.feed_forward = measured
        return block(x, deterministic=True), statistics

    x, statistics = jax.lax.scan(layer, model.block_input(model.embed(tokens)), model.layers)
    return model.logits(model.final_hidden(x)), statistics


def _mlp(model: MLP, images: Array) -> tuple[Array, _Statistics]:
    x, statistics = model.flatten(images), list[_Statistics]()
    for layer in model.layers:
        statistics.append(_statistics(layer, x))
        x = layer(x, deterministic=True)
    return model.logits(x), jax.tree.map(lambda *layers: jnp.stack(layers), *statistics)


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
        return jax.vmap(optax.tree.norm)(gradient.layers)
    return jnp.stack([optax.tree.norm(layer) for layer in gradient.layers])
