"""How evenly a router spreads tokens over the experts, and what keeps it even.

Every mean is over the real tokens of a call: padding counts nowhere.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from gelu_jax.nn.routers import Routing


class RoutingStatistics(NamedTuple):
    """What a router did with the tokens of one call; in a stack, each with a leading layer axis.

    Attributes:
      loss: what a training loss adds: the config's weights times `auxiliary_loss` and `z_loss`.
      load: share of the choices that fell on each expert, (e,), with sum 1; no gradient.
      auxiliary_loss: as `auxiliary_loss` computes it.
      z_loss: as `z_loss` computes it.
      entropy: mean entropy of a token's probabilities, in nats.
      largest_gate: mean of a token's largest gate.
    """

    loss: Float[Array, "..."]
    load: Float[Array, "... e"]
    auxiliary_loss: Float[Array, "..."]
    z_loss: Float[Array, "..."]
    entropy: Float[Array, "..."]
    largest_gate: Float[Array, "..."]


def auxiliary_loss(routing: Routing, mask: Bool[Array, "..."] | None = None) -> Float[Array, ""]:
    """E·Σ_e f_e·P_e, f the share of the choices, P the mean probability (Fedus et al. 2022, eq. 4).

    1 where the load is even, E where all of it is on one expert. The gradient passes through P.
    What transformers computes is k times that, over the tokens of all layers together.

    Args:
      routing: of tokens, (...).
      mask: (...), True at real tokens; None for no padding.
    Returns:
      The loss.

    >>> from gelu_jax.nn.routers import softmax_routing
    >>> round(float(auxiliary_loss(softmax_routing(10 * jnp.eye(4), 1, renormalize=False))), 3)
    1.0
    """
    probability = _mean(routing.probabilities, mask, routing.gates.ndim - 1)
    return probability.shape[-1] * jnp.vdot(expert_load(routing, mask), probability)


def expert_load(routing: Routing, mask: Bool[Array, "..."] | None = None) -> Float[Array, " e"]:
    """The share of the choices that fell on each expert, before any capacity.

    Args:
      routing: of tokens, (...).
      mask: (...), True at real tokens; None for no padding.
    Returns:
      An array (e,) with sum 1; no gradient passes through it.

    >>> from gelu_jax.nn.routers import softmax_routing
    >>> expert_load(softmax_routing(jnp.array([[9.0, 0.0], [0.0, 9.0]]), 1, renormalize=False))
    Array([0.5, 0.5], dtype=float32)
    """
    chosen = jax.nn.one_hot(routing.experts, routing.probabilities.shape[-1]).mean(-2)
    return jax.lax.stop_gradient(_mean(chosen, mask, chosen.ndim - 1))


def z_loss(routing: Routing, mask: Bool[Array, "..."] | None = None) -> Float[Array, ""]:
    """The mean of logsumexp(l)², which keeps logits small (Zoph et al. 2022, equation 5).

    Args:
      routing: of tokens, (...).
      mask: (...), True at real tokens; None for no padding.
    Returns:
      The loss.
    """
    return _mean(jnp.square(jax.nn.logsumexp(routing.logits, -1)), mask, routing.gates.ndim - 1)


def routing_statistics(
    routing: Routing,
    mask: Bool[Array, "..."] | None = None,
    *,
    auxiliary_weight: float = 0.0,
    z_weight: float = 0.0,
) -> RoutingStatistics:
    """All that is said of one call's routing.

    Args:
      routing: of tokens, (...).
      mask: (...), True at real tokens; None for no padding.
      auxiliary_weight: of the auxiliary loss in `RoutingStatistics.loss`.
      z_weight: of the z-loss in it.
    Returns:
      The statistics; of no real token at all, every mean is 0.
    """
    auxiliary, z = auxiliary_loss(routing, mask), z_loss(routing, mask)
    return RoutingStatistics(
        loss=auxiliary_weight * auxiliary + z_weight * z,
        load=expert_load(routing, mask),
        auxiliary_loss=auxiliary,
        z_loss=z,
        entropy=_mean(
            jax.scipy.special.entr(routing.probabilities).sum(-1), mask, routing.gates.ndim - 1
        ),
        largest_gate=_mean(routing.gates.max(-1), mask, routing.gates.ndim - 1),
    )


def updated_choice_bias(
    choice_bias: Float[Array, "... e"], load: Float[Array, "... e"], rate: float
) -> Float[Array, "... e"]:
    """The bias after a step, bias + rate·sign(mean load − load) (Wang et al. 2024, algorithm 1).

    Args:
      choice_bias: of the experts, (..., e).
      load: share of the choices that fell on each in that step, (..., e).
      rate: size of the step; DeepSeek-V3 took 0.001.
    Returns:
      An array (..., e).

    >>> updated_choice_bias(jnp.zeros(3), jnp.array([0.5, 0.25, 0.25]), 0.001)
    Array([-0.001,  0.001,  0.001], dtype=float32)
    """
    mean = load.mean(-1, keepdims=True)
    return choice_bias + rate * jnp.sign(mean - load).astype(choice_bias.dtype)


def _mean(x: Array, mask: Array | None, tokens: int) -> Array:
    """Over the first axes, those of the tokens; 0 where there is no real one."""
    axes = tuple(range(tokens))
    mask = jnp.ones(x.shape[:tokens], bool) if mask is None else mask
    real = jax.lax.expand_dims(mask, range(tokens, x.ndim))
    total = jnp.where(real, x, 0).sum(axes)
    return total / jnp.maximum(mask.sum(), 1).astype(total.dtype)
