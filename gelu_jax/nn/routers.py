"""Routers: which experts a token passes, and with what weight, its gates.

With logits l = x W (+ b) of E experts, of which each token passes k:

| kind            | the k experts                       | gates g                            |
| --------------- | ----------------------------------- | ---------------------------------- |
| "softmax"       | the greatest of p = softmax(l)      | p, or p/Σp over the k (Mixtral)    |
| "top_k_softmax" | the greatest of l                   | softmax over the k alone (gpt-oss) |
| "sigmoid"       | the greatest of σ(l) + choice bias, | c·σ(l)/Σσ(l) over the k            |
|                 | in the best groups                  | (DeepSeek-V3)                      |
| "switch"        | the greatest of p; an expert takes  | p (Switch), or p/Σp over the k     |
|                 | no more than its capacity           | (GShard)                           |

All is computed in float32 (float64 stays). Of equal logits the expert with the lower number is
chosen. A token with a logit that is not finite has NaN for its gates and probabilities.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from gelu_jax.errors import Problem, check
from gelu_jax.nn import checks
from gelu_jax.nn.axes import Axes, matmul
from gelu_jax.nn.exchange import of_each_token
from gelu_jax.nn.parameters import add_bias, cast, constant, kernel, wide_dtype


class Routing(NamedTuple):
    """Where tokens go.

    Attributes:
      experts: the numbers of the k experts of each token, (..., k).
      gates: what the output of each is multiplied with, (..., k).
      probabilities: of all experts, (..., e), with sum 1; what the auxiliary loss averages.
      logits: (..., e).
    """

    experts: Int[Array, "... k"]
    gates: Float[Array, "... k"]
    probabilities: Float[Array, "... e"]
    logits: Float[Array, "... e"]


def softmax_routing(logits: Float[Array, "... e"], k: int, *, renormalize: bool) -> Routing:
    """The k greatest of p = softmax(l), with gates p, or p/Σp over the k.

    Args:
      logits: (..., e).
      k: experts of a token.
      renormalize: whether the gates of a token have sum 1.
    Returns:
      The routing.

    >>> softmax_routing(jnp.log(jnp.array([1.0, 3.0, 4.0])), 2, renormalize=False).gates
    Array([0.5  , 0.375], dtype=float32)
    """
    probabilities = jax.nn.softmax(logits, -1)
    gates, experts = _top_k(probabilities, k)
    gates = gates / gates.sum(-1, keepdims=True) if renormalize else gates
    return _routing(logits, experts, gates, probabilities)


def top_k_softmax_routing(logits: Float[Array, "... e"], k: int) -> Routing:
    """The k greatest logits, with their softmax for gates (gpt-oss model card 2025).

    Args:
      logits: (..., e).
      k: experts of a token.
    Returns:
      The routing.

    >>> top_k_softmax_routing(jnp.log(jnp.array([1.0, 3.0, 1.0])), 2).experts
    Array([1, 0], dtype=int32)
    """
    greatest, experts = _top_k(logits, k)
    return _routing(logits, experts, jax.nn.softmax(greatest, -1), jax.nn.softmax(logits, -1))


def sigmoid_routing(
    logits: Float[Array, "... e"],
    k: int,
    *,
    choice_bias: Float[Array, " e"],
    num_groups: int = 1,
    top_groups: int = 1,
    renormalize: bool = True,
    scale: float = 1.0,
) -> Routing:
    """The k greatest of σ(l) + choice bias; the gates, c·σ(l), do not see the bias.

    The experts stand in groups, each as good as its two best together; experts of the best groups
    alone are chosen (DeepSeek-V3 2024, section 2.1.2).

    Args:
      logits: (..., e).
      k: experts of a token.
      choice_bias: added where experts are chosen; no gradient passes through it.
      num_groups: groups of experts.
      top_groups: groups that are open to a token.
      renormalize: whether the σ(l) of a token's experts are divided by their sum.
      scale: c.
    Returns:
      The routing; its probabilities are σ(l)/Σσ(l) over all experts.

    >>> sigmoid_routing(jnp.array([1.0, 2.0, 0.0]), 1, choice_bias=jnp.array([1.0, 0, 0])).experts
    Array([0], dtype=int32)
    """
    scores = jax.nn.sigmoid(logits)
    choice = jax.lax.stop_gradient(scores + choice_bias)
    _, experts = _top_k(_of_best_groups(choice, num_groups, top_groups), k)
    gates = jnp.take_along_axis(scores, experts, -1)
    gates = gates / (gates.sum(-1, keepdims=True) + 1e-20) if renormalize else gates
    probabilities = scores / scores.sum(-1, keepdims=True)
    return _routing(logits, experts, scale * gates, probabilities)


def _of_best_groups(choice: Array, num_groups: int, top_groups: int) -> Array:
    """The scores, −∞ outside of the best groups."""
    if top_groups == num_groups:
        return choice
    in_groups = choice.reshape(*choice.shape[:-1], num_groups, -1)
    best_two = _top_k(in_groups, min(2, in_groups.shape[-1]))[0].sum(-1)
    best_groups = _top_k(best_two, top_groups)[1]
    is_open = jax.nn.one_hot(best_groups, num_groups, dtype=bool).any(-2)
    return jnp.where(is_open[..., None], in_groups, -jnp.inf).reshape(choice.shape)


def _top_k(scores: Array, k: int) -> tuple[Array, ...]:
    return of_each_token(lambda scores: tuple(jax.lax.top_k(scores, k)), scores)


def _routing(logits: Array, experts: Array, gates: Array, probabilities: Array) -> Routing:
    """NaN instead of numbers, where a token has a logit that is not finite."""
    finite = jnp.isfinite(logits).all(-1, keepdims=True)
    gates, probabilities = (jnp.where(finite, x, jnp.nan) for x in (gates, probabilities))
    return Routing(experts, gates, probabilities, logits)


@dataclass(frozen=True)
class SoftmaxRouterConfig:
    """Softmax over all experts, then the k greatest: Mixtral, Qwen2-MoE, Qwen3-MoE, OLMoE.

    Attributes:
      renormalize: whether the gates of a token have sum 1.
      kind: "softmax", which tells routers apart in a config file.
    """

    renormalize: bool = True
    kind: Literal["softmax"] = "softmax"

    def __post_init__(self):
        checks.field_types(self)


@dataclass(frozen=True)
class TopKSoftmaxRouterConfig:
    """The k greatest logits, then their softmax: gpt-oss.

    Attributes:
      use_bias: whether the logits have a bias.
      kind: "top_k_softmax", which tells routers apart in a config file.
    """

    use_bias: bool = True
    kind: Literal["top_k_softmax"] = "top_k_softmax"

    def __post_init__(self):
        checks.field_types(self)


@dataclass(frozen=True)
class SigmoidRouterConfig:
    """Sigmoids, with a bias that takes part in the choice alone, and groups: DeepSeek-V3.

    Attributes:
      num_groups: groups that the experts stand in.
      top_groups: groups that are open to a token.
      renormalize: whether the gates of a token have the sum `scale`.
      scale: multiplies the gates.
      kind: "sigmoid", which tells routers apart in a config file.

    Raises:
      ConfigError: a field has a wrong value.
    """

    num_groups: int = 1
    top_groups: int = 1
    renormalize: bool = True
    scale: float = 1.0
    kind: Literal["sigmoid"] = "sigmoid"

    def __post_init__(self):
        checks.field_types(self)
        check(self._problems())

    def _problems(self) -> Iterator[Problem]:
        fields = {"num_groups": self.num_groups, "top_groups": self.top_groups}
        yield from checks.positive(**fields, scale=self.scale)
        if self.top_groups > self.num_groups:
            reason = f"must not be above num_groups = {self.num_groups}"
            yield Problem("top_groups", self.top_groups, reason)


@dataclass(frozen=True)
class SwitchRouterConfig:
    """Softmax, and a capacity: tokens beyond it pass the residual stream alone (Switch, GShard).

    An expert takes ⌈capacity_factor·k·T/E⌉ of T tokens; first choices before second ones, and
    earlier tokens before later ones.

    Attributes:
      capacity_factor: how many times its equal share an expert can take, at least 1.
      renormalize: whether the gates of a token have sum 1 (GShard).
      kind: "switch", which tells routers apart in a config file.

    Raises:
      ConfigError: a field has a wrong value.
    """

    capacity_factor: float = 1.25
    renormalize: bool = False
    kind: Literal["switch"] = "switch"

    def __post_init__(self):
        checks.field_types(self)
        if not self.capacity_factor >= 1 or math.isinf(self.capacity_factor):
            reason = "must be at least 1, and finite"
            check(iter([Problem("capacity_factor", self.capacity_factor, reason)]))

    def capacity(self, num_tokens: int, num_experts: int, k: int) -> int:
        """How many tokens one expert takes.

        Args:
          num_tokens: of the call.
          num_experts: experts in all.
          k: experts of a token.
        Returns:
          ⌈capacity_factor·k·T/E⌉.
        """
        return math.ceil(self.capacity_factor * k * num_tokens / num_experts)


RouterConfig = (
    SoftmaxRouterConfig | TopKSoftmaxRouterConfig | SigmoidRouterConfig | SwitchRouterConfig
)
ROUTERS = {
    "softmax": SoftmaxRouterConfig,
    "top_k_softmax": TopKSoftmaxRouterConfig,
    "sigmoid": SigmoidRouterConfig,
    "switch": SwitchRouterConfig,
}


def router_problems(
    router: RouterConfig, num_experts: int, experts_per_token: int
) -> Iterator[Problem]:
    """Checks a router against the number of experts.

    Args:
      router: its config.
      num_experts: experts in all.
      experts_per_token: experts of a token.
    Returns:
      The problems found.
    """
    if getattr(router, "kind", None) not in ROUTERS:
        yield Problem("router", router, f"not a config of a router; one of {', '.join(ROUTERS)}")
    elif isinstance(router, SigmoidRouterConfig):
        groups = router.num_groups
        found = list(checks.divides(num_experts, "num_experts", num_groups=groups))
        yield from found
        open_experts = router.top_groups * (num_experts // groups)
        if not found and experts_per_token > open_experts:
            reason = f"the {router.top_groups} groups open to a token have {open_experts} experts"
            yield Problem("experts_per_token", experts_per_token, reason)


class ChoiceBias(nnx.Variable[Array]):
    """A bias that no gradient reaches and no optimizer moves: `gelu_jax.update_choice_bias` does.

    It is no `flax.nnx.Param`, so that ``nnx.Optimizer(..., wrt=nnx.Param)`` leaves it alone.
    """


class Router(nnx.Module):
    """A router as an NNX module.

    Parameters: ``w`` (d, e); ``b`` (e,) or None; ``choice_bias`` (e,), a `ChoiceBias`, or None.

    Args:
      config: the router's config.
      d_model: width of a token.
      num_experts: experts e.
      init_std: standard deviation of w; None for 1/√d.
      param_dtype: dtype that the parameters are stored in.
      rngs: source of the initial values.

    >>> router = Router(SoftmaxRouterConfig(), d_model=4, num_experts=3, rngs=nnx.Rngs(0))
    >>> router(jnp.ones((5, 4)), 2).experts.shape
    (5, 2)
    """

    axes: ClassVar[Axes] = {"w": "d -", "b": "-", "choice_bias": "-"}

    def __init__(
        self,
        config: RouterConfig,
        *,
        d_model: int,
        num_experts: int,
        init_std: float | None = None,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.config = config
        e, dtype = num_experts, param_dtype
        options: dict[str, Any] = {"fan_in": d_model, "std": init_std, "dtype": dtype}
        self.w = kernel(rngs, (d_model, e), axes=self.axes["w"], **options)
        has_bias = isinstance(config, TopKSoftmaxRouterConfig) and config.use_bias
        self.b = constant(0.0, (e,), dtype, self.axes["b"]) if has_bias else None
        chooses = isinstance(config, SigmoidRouterConfig)
        self.choice_bias = ChoiceBias(jnp.zeros(e, wide_dtype(dtype))) if chooses else None

    def __call__(self, x: Float[Array, "... d"], k: int) -> Routing:
        """Routes tokens.

        Args:
          x: tokens, (..., d), of any floating dtype.
          k: experts of a token.
        Returns:
          The routing, in float32 (float64 stays).
        """
        wide = wide_dtype(x.dtype)
        logits = matmul(x.astype(wide), cast(self.w, wide))
        logits = add_bias(logits, None if self.b is None else cast(self.b, wide))
        match self.config:
            case SoftmaxRouterConfig(renormalize) | SwitchRouterConfig(_, renormalize):
                return softmax_routing(logits, k, renormalize=renormalize)
            case TopKSoftmaxRouterConfig():
                return top_k_softmax_routing(logits, k)
            case SigmoidRouterConfig() as c:
                assert self.choice_bias is not None
                return sigmoid_routing(
                    logits,
                    k,
                    choice_bias=self.choice_bias[...].astype(wide),
                    num_groups=c.num_groups,
                    top_groups=c.top_groups,
                    renormalize=c.renormalize,
                    scale=c.scale,
                )
