"""A mixture of experts: MoE(x) = Σₑ gₑ(x)·FFNₑ(x) over the experts that a token's router chose.

Every expert is a feed-forward block (`gelu_jax.nn.feed_forward`) of one variant, and every one of
its parameters has an axis of experts before its own. Tokens are sorted by expert, so that the work
is that of the chosen experts alone (`gelu_jax.nn.grouped`); shapes do not depend on the routing,
and no token is dropped but by a router with a capacity.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial, reduce
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from flax.nnx.spmd import add_axis
from jax.export import is_symbolic_dim
from jax.tree_util import Partial
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, Key

from gelu_jax.errors import Problem, check
from gelu_jax.nn import checks
from gelu_jax.nn.axes import Axes, have_rules, matmul
from gelu_jax.nn.balance import RoutingStatistics, routing_statistics
from gelu_jax.nn.dropout import Rngs, Stochastic
from gelu_jax.nn.exchange import mesh_axes, on_mesh
from gelu_jax.nn.feed_forward import (
    FeedForward,
    FeedForwardConfig,
    Precision,
    Rounding,
    choice_problems,
    functions_of_branches,
    output_part,
    pre_activations,
)
from gelu_jax.nn.grouped import grouped_matmul, map_blocks
from gelu_jax.nn.parameters import add, cast, kernel, numbered, set_numbered, wide_dtype
from gelu_jax.nn.remat import Residuals, checkpoint_if
from gelu_jax.nn.routers import (
    Router,
    RouterConfig,
    Routing,
    SoftmaxRouterConfig,
    SwitchRouterConfig,
    router_problems,
)
from gelu_jax.nn.variants import Variant, branch_functions


def mixture_of_experts(
    x: Float[Array, "... d"],
    experts: Int[Array, "... k"],
    gates: Float[Array, "... k"],
    w_in: Sequence[Float[Array, "x d f"]],
    w_out: Float[Array, "x f e"],
    *,
    variant: Variant = "swiglu",
    b_in: Sequence[Float[Array, "x f"]] | None = None,
    b_out: Float[Array, "x e"] | None = None,
    mask: Bool[Array, "..."] | None = None,
    capacity: int | None = None,
    dropout_rate: float = 0.0,
    dropout_key: Key[Array, ""] | None = None,
    residuals: Residuals = "preactivation",
    residual_dtype: DTypeLike | None = None,
    rounding: Rounding = "once",
    precision: Precision | None = None,
    buffer_factor: float | None = None,
) -> Float[Array, "... e"]:
    """Σⱼ gⱼ·FFN_{eⱼ}(x) over the k experts eⱼ of each token (Shazeer et al. 2017, equation 1).

    A gate multiplies the hidden layer of its expert, g·(h W_out + b_out) = (g·h) W_out + g·b_out,
    so that its derivative needs no expert's output.

    Args:
      x: tokens, (..., d), of any floating dtype.
      experts: numbers of the experts of each token, (..., k).
      gates: what each expert's output is multiplied with, (..., k). A token with a gate that is not
        finite has NaN for its result.
      w_in: one kernel (experts, d, f) per branch, in the order of the variant's activations.
      w_out: output kernels, (experts, f, e).
      variant: the branch activations, as in `branches`; the module of a branch that learns has
        parameters with a leading axis of experts.
      b_in: one bias (experts, f) per branch, or None.
      b_out: output biases, (experts, e), or None.
      mask: (...), True at real tokens, False at padding, which passes no expert and has 0 for its
        result; None for no padding.
      capacity: the most tokens that an expert takes, first choices before second ones and earlier
        tokens before later ones; from the others it adds 0. None for no limit.
      dropout_rate: probability with which an entry of a hidden layer is zeroed.
      dropout_key: PRNG key of the dropout; None drops nothing.
      residuals: what is kept for the backward pass beside x and the weights, in tensors of f
        entries, for n branches: "preactivation" n for each of a token's experts (and up to an
        eighth more, see `block_size`); "input" none; "all" what plain autodiff keeps.
      residual_dtype: narrow dtype of the stored pre-activations, as in `feed_forward`.
      rounding: "once" or "hf", as in `branch_product`.
      precision: "default", "high" or "highest", of the matrix products; None for JAX's own choice.
      buffer_factor: on a mesh that splits the experts, as in `MoEConfig`.
    Returns:
      An array (..., e) of the dtype of x.
    Raises:
      ValueError: an unknown variant or choice, or a wrong number of kernels.

    >>> x, w = jnp.ones((3, 4)), jnp.ones((2, 4, 8))
    >>> experts, gates = jnp.array([[0], [1], [1]]), jnp.ones((3, 1))
    >>> mixture_of_experts(x, experts, gates, (w, w), jnp.ones((2, 8, 4))).shape
    (3, 4)
    """
    check(choice_problems(residuals, residual_dtype, None, rounding))
    phis = functions_of_branches(variant, w_in)
    *lead, k = experts.shape
    num_experts, d_out = w_out.shape[0], w_out.shape[-1]
    if 0 in lead:
        return jnp.zeros((*lead, d_out), x.dtype)
    gates = gates if mask is None else jnp.where(mask[..., None], gates, 0)
    weights = (w_in, b_in, phis, w_out, b_out)
    options: dict[str, Any] = {"dropout_rate": dropout_rate, "residuals": residuals}
    options |= {"residual_dtype": residual_dtype, "rounding": rounding, "precision": precision}
    axes = mesh_axes(x, num_experts)
    if axes is None:
        slots = _slots(experts, mask, num_experts, capacity)
        tokens = x.reshape(-1, x.shape[-1])
        y = _mixture(tokens, slots, gates.reshape(-1, k), weights, dropout_key, **options)
    else:
        routed = _routed(experts, mask, num_experts, capacity)
        on_device = partial(_on_device, of_experts=num_experts, **options)
        y = on_mesh(
            on_device, axes, x, routed, gates, weights, dropout_key,
            num_experts=num_experts, factor=buffer_factor,
        )  # fmt: skip
    y = y.reshape(*lead, d_out)
    return jnp.where(jnp.isfinite(gates).all(-1, keepdims=True), y, jnp.nan).astype(x.dtype)


def _slots(experts: Array, mask: Array | None, num_experts: int, capacity: int | None) -> "Slots":
    flat = experts.reshape(-1, experts.shape[-1]), None if mask is None else mask.ravel()
    return assign(*flat, num_experts=num_experts, capacity=capacity)


def _routed(experts: Array, mask: Array | None, num_experts: int, capacity: int | None) -> Array:
    """The experts of each token, `num_experts` in the place of those that it does not pass."""
    if capacity is not None:
        slots = _slots(experts, mask, num_experts, capacity)
        kept = (slots.slot < slots.choices.size).T.reshape(experts.shape)
        return jnp.where(kept, experts, num_experts)
    return experts if mask is None else jnp.where(mask[..., None], experts, num_experts)


def _on_device(
    tokens: Array, experts: Array, gates: Array, weights: Any, key: Any, **options: Any
) -> Array:
    """The experts of one device, of tokens from all devices."""
    of_experts, held = options.pop("of_experts"), weights[3].shape[0]
    slots = assign(experts, num_experts=held, of_experts=of_experts)
    return _mixture(tokens, slots, gates, weights, key, **options).astype(tokens.dtype)


def _mixture(
    tokens: Array,
    slots: "Slots",
    gates: Array,
    weights: Any,
    key: Any,
    *,
    dropout_rate: float,
    residuals: Residuals,
    residual_dtype: DTypeLike | None,
    rounding: Rounding,
    precision: Precision | None,
) -> Array:
    """The sums of the tokens' rows, in float32 (float64 stays)."""
    of_output: Any = tokens.dtype, dropout_rate, residuals, residual_dtype, rounding

    def experts(
        x: Array, scale: Array, weights: Any, key: Any, rows: Any, product: Any, own: Any
    ) -> Array:
        """What each of `rows` of x gives; `own` is a parameter of the expert of each row."""
        w_in, b_in, phis, w_out, b_out = weights

        @checkpoint_if(residuals != "all")  # which gathers again rather than keep what it gathered
        def hidden(x: Array, w_in: Any, b_in: Any) -> Any:
            return pre_activations(rows(x), w_in, b_in, product, lambda y, b: y + own(b))

        output = output_part(product, lambda y, _: y, *of_output)
        y = output(hidden(x, w_in, b_in), (list(map(own, phis)), None, w_out, None), key, scale)
        return y if b_out is None else add(y, scale.astype(y.dtype) * own(b_out))

    @checkpoint_if(residuals == "input")
    def at_once(tokens: Array, slots: Slots, gates: Array, weights: Any, key: Any) -> Array:
        product = partial(grouped_matmul, ends=slots.ends, precision=precision)
        own = partial(_of_each_block, slots=slots)
        y = experts(tokens, slots.gates(gates), weights, key, slots.rows, product, own)
        return slots.sums(y)

    if key is not None:  # dropout, whose masks are drawn for all rows
        return at_once(tokens, slots, gates, weights, key)

    def by_blocks(tokens: Array, slots: Slots, gates: Array, weights: Any) -> Array:
        product = partial(jnp.matmul, precision=precision)

        def block(x: tuple[Array, Array], weights: Any) -> Array:
            return experts(*x, weights, None, lambda x: x, product, _of_one_block)

        blocks = slots.rows(tokens), slots.gates(gates)
        return slots.sums(map_blocks(block, blocks, weights, slots.ends))

    forward = _forward(by_blocks, lambda *arguments: at_once(*arguments, None))
    return forward(tokens, slots, gates, weights)


def _forward(by_blocks: Callable[..., Array], at_once: Callable[..., Array]) -> Any:
    """On a CPU, and where nothing is kept, block by block, and so without a large temporary.

    To get fresh memory for one from the system takes as long there as the products.
    """

    @jax.custom_jvp
    def forward(*arguments: Any) -> Array:
        return jax.lax.platform_dependent(*arguments, cpu=by_blocks, default=at_once)

    @forward.defjvp
    def _(primals: Any, tangents: Any) -> tuple[Array, Array]:  # pyright: ignore[reportUnusedFunction]
        return jax.jvp(at_once, primals, tangents)

    return forward


def _of_each_block(parameter: Any, slots: "Slots") -> Any:
    """A bias, or a branch that learns, by blocks of rows: those of the block's expert."""
    if isinstance(parameter, Array):
        return parameter[slots.experts][:, None]
    if not isinstance(parameter, nnx.Module):
        return parameter
    of_blocks = jax.tree.map(lambda leaf: leaf[slots.experts], parameter)
    return Partial(jax.vmap(lambda phi, p: phi(p)), of_blocks)


def _of_one_block(parameter: Any) -> Any:
    """The same of one expert."""
    return parameter[None] if isinstance(parameter, Array) else parameter


class Slots(NamedTuple):
    """Rows in blocks, each block of one expert: where every choice of a token has its row.

    Attributes:
      choices: which choice has each row, (n, b): choice j of token t is j·T + t, and T·k is none.
      slot: the row of each choice, (k, T), over all blocks; n·b where it was dropped.
      experts: the expert of each block, (n,).
      ends: how many blocks the experts up to each have together, (x,).
    """

    choices: Int[Array, "n b"]
    slot: Int[Array, "k t"]
    experts: Int[Array, " n"]
    ends: Int[Array, " x"]

    def rows(self, tokens: Float[Array, "t d"]) -> Float[Array, "n b d"]:
        """The tokens of all rows, 0 in a row that is nobody's.

        Args:
          tokens: (t, d).
        Returns:
          An array (n, b, d).
        """
        k, t = self.slot.shape
        of_token = jnp.where(self.choices < k * t, self.choices % t, t)
        return tokens.at[of_token].get(mode="fill", fill_value=0)

    def gates(self, gates: Float[Array, "t k"]) -> Float[Array, "n b 1"]:
        """The gates of all rows, 0 in a row that is nobody's.

        Args:
          gates: (t, k).
        Returns:
          An array (n, b, 1).
        """
        return gates.T.ravel().at[self.choices].get(mode="fill", fill_value=0)[..., None]

    def sums(self, y: Float[Array, "n b e"]) -> Float[Array, "t e"]:
        """The sum of each token's rows.

        Args:
          y: (n, b, e).
        Returns:
          An array (t, e), summed in float32 (float64 stays).
        """
        wide = y.reshape(-1, y.shape[-1]).astype(wide_dtype(y.dtype))
        return reduce(add, (wide.at[row].get(mode="fill", fill_value=0) for row in self.slot))


def block_size(num_choices: int, num_experts: int) -> int:
    """Rows in a block, of which an expert leaves less than one block empty.

    An eighth of an expert's equal share, so that at most an eighth of the work is for nothing,
    as a power of two from 32 to 128; below 32, where there are fewer choices, down to 8.

    Args:
      num_choices: T·k.
      num_experts: experts in all.
    Returns:
      The number.

    >>> [block_size(n, 8) for n in (8, 512, 2048, 8192)]
    [8, 32, 32, 128]
    """
    if is_symbolic_dim(num_choices):
        return 32
    share = max(num_choices // num_experts, 1)
    return max(8, min(128, 1 << max(share // 8, min(share, 32)).bit_length() - 1))


def assign(
    experts: Int[Array, "t k"],
    mask: Bool[Array, " t"] | None = None,
    *,
    num_experts: int,
    capacity: int | None = None,
    of_experts: int | None = None,
) -> Slots:
    """Sorts the choices of all tokens by expert, into rows of blocks.

    Args:
      experts: numbers of the experts of each token, (t, k).
      mask: (t,), True at real tokens; padding has no row. None for no padding.
      num_experts: experts that have rows; a choice with a number beyond them has none.
      capacity: as in `mixture_of_experts`.
      of_experts: experts in all, where others are on other devices and the experts of a token are
        all different; None for `num_experts`.
    Returns:
      The rows.

    >>> slots = assign(jnp.array([[1], [0], [1]]), num_experts=2)
    >>> slots.slot.tolist(), slots.ends.tolist()
    ([[8, 0, 9]], [1, 2])
    """
    t, k = experts.shape
    size = block_size(t * k, of_experts or num_experts)
    most = t * (k if of_experts is None else min(k, num_experts))
    of_choice = experts.T if mask is None else jnp.where(mask, experts.T, num_experts)
    of_choice = of_choice.ravel()
    order = jnp.argsort(of_choice, stable=True).astype(jnp.int32)
    in_order = of_choice[order]
    counts = jnp.bincount(of_choice, length=num_experts).astype(jnp.int32)
    rank = jnp.arange(t * k, dtype=jnp.int32) - (jnp.cumsum(counts) - counts)[in_order]
    taken = counts if capacity is None else jnp.minimum(counts, capacity)
    blocks = -(-taken // size)
    ends = jnp.cumsum(blocks)
    n = _most_blocks(most, num_experts, size)
    kept = (in_order < num_experts) & (rank < taken[in_order])
    slot = jnp.where(kept, (ends - blocks)[in_order] * size + rank, n * size)
    choices = jnp.full(n * size, t * k, jnp.int32).at[slot].set(order, mode="drop")
    by_choice = jnp.zeros(t * k, jnp.int32).at[order].set(slot)
    owners = (ends <= jnp.arange(n, dtype=jnp.int32)[:, None]).sum(-1).clip(max=num_experts - 1)
    return Slots(choices.reshape(n, size), by_choice.reshape(k, t), owners, ends)


def _most_blocks(num_choices: int, num_experts: int, size: int) -> int:
    """Of any routing: no expert leaves a whole block empty."""
    most = (num_choices + num_experts * (size - 1)) // size
    return most if is_symbolic_dim(num_choices) else max(1, min(num_choices, most))


_SOFTMAX = SoftmaxRouterConfig()


@dataclass(frozen=True)
class MoEConfig:
    """What a mixture of experts is made of.

    Attributes:
      feed_forward: the config of every expert.
      num_experts: experts e.
      experts_per_token: experts k that a token passes.
      router: the router's config; its `kind` says which.
      shared: the config of a block that every token passes beside its experts; None for none.
        Several shared experts are one of their summed width.
      shared_gate: whether the shared block's output is multiplied with σ(x w) (Qwen2-MoE).
      auxiliary_loss: weight of `gelu_jax.auxiliary_loss` in a training loss; 0.01 in Switch.
      z_loss: weight of `gelu_jax.z_loss` in a training loss; 0.001 in ST-MoE.
      bias_update_rate: by how much a step moves the choice bias of a "sigmoid" router towards an
        even load; 0.001 in DeepSeek-V3.
      buffer_factor: where experts are split over p devices, a device sends another at most so many
        times an equal share of its tokens, k·T/p, and drops what is beyond; at least 1. None sends
        any routing whole, in buffers of T tokens.

    Raises:
      ConfigError: a field has a wrong value.

    >>> expert = FeedForwardConfig(d_model=512, d_ff=256, variant="swiglu")
    >>> config = MoEConfig(expert, num_experts=8, experts_per_token=2)
    >>> config.num_parameters, config.num_active_parameters
    (3149824, 790528)
    """

    feed_forward: FeedForwardConfig
    num_experts: int
    experts_per_token: int
    router: RouterConfig = _SOFTMAX
    shared: FeedForwardConfig | None = None
    shared_gate: bool = False
    auxiliary_loss: float = 0.0
    z_loss: float = 0.0
    bias_update_rate: float = 0.0
    buffer_factor: float | None = None

    def __post_init__(self):
        checks.field_types(self)
        check(self._problems())

    def _problems(self) -> Iterator[Problem]:
        sizes = {"num_experts": self.num_experts, "experts_per_token": self.experts_per_token}
        found = list(checks.positive(**sizes))
        if not found and self.experts_per_token > self.num_experts:
            reason = f"must not be above num_experts = {self.num_experts}"
            found = [Problem("experts_per_token", self.experts_per_token, reason)]
        yield from found
        if not found:
            yield from router_problems(self.router, self.num_experts, self.experts_per_token)
        weights = {"auxiliary_loss": self.auxiliary_loss, "z_loss": self.z_loss}
        yield from checks.not_negative(**weights, bias_update_rate=self.bias_update_rate)
        if self.buffer_factor is not None and not 1 <= self.buffer_factor < math.inf:
            yield Problem("buffer_factor", self.buffer_factor, "must be at least 1, and finite")
        if self.bias_update_rate and getattr(self.router, "kind", None) != "sigmoid":
            reason = 'only a router of kind "sigmoid" has a choice bias'
            yield Problem("bias_update_rate", self.bias_update_rate, reason)
        for name in ("active_units", "chunk_size", "dot_general", "hidden_norm"):
            if (value := getattr(self.feed_forward, name)) is not None:
                yield Problem(f"feed_forward.{name}", value, "must be None for experts")
        yield from self._shared_problems()

    def _shared_problems(self) -> Iterator[Problem]:
        expert, shared = self.feed_forward, self.shared
        if shared is None:
            if self.shared_gate:
                yield Problem("shared_gate", True, "needs a shared block")
            return
        widths = {
            "shared.d_model": (shared.d_model, expert.d_model),
            "shared.d_out": (shared.output_width, expert.output_width),
            "shared.dtype": (shared.dtype, expert.dtype),
        }
        for name, (value, expected) in widths.items():
            yield from checks.equal(expected, name.replace("shared", "feed_forward"), {name: value})

    @property
    def d_model(self) -> int:
        """Width of the input."""
        return self.feed_forward.d_model

    @property
    def d_out(self) -> int | None:
        """Width of the output; None for d_model."""
        return self.feed_forward.d_out

    @property
    def d_ff(self) -> int:
        """Width of the hidden layer of one expert."""
        return self.feed_forward.d_ff

    @property
    def num_branches(self) -> int:
        """Number of kernels in `w_in`."""
        return self.feed_forward.num_branches

    @property
    def dropout_rate(self) -> float:
        """The highest of the dropout rates."""
        return max(b.dropout_rate for b in (self.feed_forward, self.shared) if b is not None)

    @property
    def num_parameters(self) -> int:
        """Entries of all parameters."""
        return self._num_parameters(self.num_experts)

    @property
    def num_active_parameters(self) -> int:
        """Entries of the parameters that one token meets: the router's, k experts', the shared."""
        return self._num_parameters(self.experts_per_token)

    def _num_parameters(self, experts: int) -> int:
        d, e = self.d_model, self.num_experts
        has_bias = getattr(self.router, "use_bias", False) or self.router.kind == "sigmoid"
        router = d * e + e * has_bias
        shared = 0 if self.shared is None else self.shared.num_parameters + d * self.shared_gate
        return router + experts * self.feed_forward.num_parameters + shared

    def with_output_init_scale(self, scale: float) -> "MoEConfig":
        """The same config, whose output kernels start with another standard deviation.

        Args:
          scale: `FeedForwardConfig.output_init_scale` of the experts and the shared block.
        Returns:
          A config.
        """
        shared = None if self.shared is None else replace(self.shared, output_init_scale=scale)
        expert = replace(self.feed_forward, output_init_scale=scale)
        return replace(self, feed_forward=expert, shared=shared)


class Experts(nnx.Module):
    """All experts as an NNX module.

    Parameters: those of `FeedForward`, ``w_in_i``, ``b_in_i``, ``learned_i``, ``w_out`` and
    ``b_out``, each with a leading axis of experts x.

    Args:
      config: the config of every expert.
      num_experts: experts x.
      rngs: source of the initial values; each expert draws from a key of its own.
    """

    axes: ClassVar[Axes] = {name: f"x {axes}" for name, axes in FeedForward.axes.items()}

    def __init__(self, config: FeedForwardConfig, num_experts: int, *, rngs: nnx.Rngs):
        self.config = config
        keys = jax.random.split(rngs.params(), num_experts)
        experts = jax.vmap(lambda key: FeedForward(config, rngs=nnx.Rngs(key)))(keys)
        axis = "x" if have_rules(["x"]) else None
        experts = add_axis(experts, 0, {nnx.PARTITION_NAME: axis})
        set_numbered(self, "w_in", experts.w_in)
        set_numbered(self, "b_in", experts.b_in or ())
        set_numbered(self, "learned", experts.learned or ())
        self.w_out, self.b_out = experts.w_out, experts.b_out

    def __call__(
        self,
        x: Float[Array, "... d"],
        routing: Routing,
        *,
        mask: Bool[Array, "..."] | None = None,
        capacity: int | None = None,
        dropout_key: Key[Array, ""] | None = None,
        buffer_factor: float | None = None,
    ) -> Float[Array, "... e"]:
        """Computes the chosen experts in ``config.dtype``.

        Args:
          x: tokens, (..., d), of any floating dtype.
          routing: of the tokens.
          mask: (...), True at real tokens; None for no padding.
          capacity: as in `mixture_of_experts`.
          dropout_key: PRNG key of the dropout; None drops nothing.
          buffer_factor: as in `MoEConfig`.
        Returns:
          An array (..., e) of ``config.dtype``.
        """
        c = self.config
        b_in = numbered(self, "b_in")
        return mixture_of_experts(
            x.astype(c.dtype),
            routing.experts,
            routing.gates,
            [cast(w, c.dtype) for w in numbered(self, "w_in")],
            cast(self.w_out, c.dtype),
            variant=branch_functions(c.variant, numbered(self, "learned")),
            b_in=[cast(b, c.dtype) for b in b_in] or None,
            b_out=None if self.b_out is None else cast(self.b_out, c.dtype),
            mask=mask,
            capacity=capacity,
            dropout_rate=c.dropout_rate,
            dropout_key=dropout_key,
            residuals=c.residuals,
            residual_dtype=c.residual_dtype,
            rounding=c.rounding,
            precision=c.precision,
            buffer_factor=buffer_factor,
        )


class MoE(Stochastic):
    """A mixture of experts as an NNX module, in the place of a `FeedForward`.

    Parts: ``router``, ``experts``, ``shared`` (a `FeedForward`, or None), and ``shared_gate``
    (d, 1), or None.

    Args:
      config: the mixture's config.
      rngs: source of the initial values.

    >>> expert = FeedForwardConfig(d_model=4, d_ff=8, variant="swiglu")
    >>> moe = MoE(MoEConfig(expert, num_experts=4, experts_per_token=2), rngs=nnx.Rngs(0))
    >>> moe(jnp.ones((2, 3, 4))).shape
    (2, 3, 4)
    """

    axes: ClassVar[Axes] = {"shared_gate": "d -"}

    def __init__(self, config: MoEConfig, *, rngs: nnx.Rngs):
        c = self.config = config
        expert = c.feed_forward
        self.experts = Experts(expert, c.num_experts, rngs=rngs)
        self.shared = None if c.shared is None else FeedForward(c.shared, rngs=rngs)
        options: dict[str, Any] = {"d_model": c.d_model, "num_experts": c.num_experts}
        start: dict[str, Any] = {"init_std": expert.init_std, "param_dtype": expert.param_dtype}
        self.router = Router(c.router, **options, **start, rngs=rngs)
        self.shared_gate = kernel(
            rngs, (c.d_model, 1), fan_in=c.d_model, std=expert.init_std, dtype=expert.param_dtype,
            axes=self.axes["shared_gate"],
        ) if c.shared_gate else None  # fmt: skip

    def __call__(
        self,
        x: Float[Array, "... d"],
        deterministic: bool | None = None,
        *,
        mask: Bool[Array, "..."] | None = None,
        rngs: Rngs | None = None,
        dropout_key: Key[Array, ""] | None = None,
    ) -> Float[Array, "... e"]:
        """Computes the mixture in the dtype of its config.

        Args:
          x: tokens, (..., d), of any floating dtype.
          deterministic: whether dropout is off; None for what `nnx.Module.train` and
            `nnx.Module.eval` set last, and on in a new module.
          mask: (...), True at real tokens, False at padding, which passes no expert; None for no
            padding.
          rngs: gives the dropout's key where `dropout_key` is None; its stream is "dropout".
          dropout_key: PRNG key of all dropout.
        Returns:
          An array (..., e); NaN at a token whose logits in the router are not finite.
        Raises:
          ValueError: dropout is on, and there is no key.
        """
        options: dict[str, Any] = {"mask": mask, "rngs": rngs, "dropout_key": dropout_key}
        return self.with_routing(x, deterministic, **options)[0]

    def with_routing(
        self,
        x: Float[Array, "... d"],
        deterministic: bool | None = None,
        *,
        mask: Bool[Array, "..."] | None = None,
        rngs: Rngs | None = None,
        dropout_key: Key[Array, ""] | None = None,
    ) -> tuple[Float[Array, "... e"], RoutingStatistics]:
        """Computes the mixture, and what its router did; a training loss adds its ``loss``.

        Args:
          x: tokens, (..., d), of any floating dtype.
          deterministic: whether dropout is off, as in `__call__`.
          mask: (...), True at real tokens, as in `__call__`.
          rngs: gives the dropout's key where `dropout_key` is None; its stream is "dropout".
          dropout_key: PRNG key of all dropout.
        Returns:
          What `__call__` returns, and the statistics of the routing.
        Raises:
          ValueError: dropout is on, and there is no key.
        """
        c = self.config
        key = self.key_of_call(c.dropout_rate, deterministic, rngs, dropout_key)
        keys = [None, None] if key is None else jax.random.split(key)
        routing = self.router(x, c.experts_per_token)
        capacity = None
        if isinstance(c.router, SwitchRouterConfig):
            capacity = c.router.capacity(
                math.prod(x.shape[:-1]), c.num_experts, c.experts_per_token
            )
        options: dict[str, Any] = {"capacity": capacity, "buffer_factor": c.buffer_factor}
        y = self.experts(x, routing, mask=mask, dropout_key=keys[0], **options)
        if self.shared is not None:
            y = add(y, self._shared(x, keys[1]))
        weights = {"auxiliary_weight": c.auxiliary_loss, "z_weight": c.z_loss}
        return y, routing_statistics(routing, mask, **weights)

    def _shared(self, x: Array, key: Any) -> Array:
        assert self.shared is not None
        y = self.shared(x, key is None, dropout_key=key)
        if self.shared_gate is None:
            return y
        wide = wide_dtype(x.dtype)
        gate = jax.nn.sigmoid(matmul(x.astype(wide), cast(self.shared_gate, wide)))
        return (gate * y.astype(wide)).astype(y.dtype)


def feed_forward_part(
    config: FeedForwardConfig | MoEConfig, *, rngs: nnx.Rngs
) -> FeedForward | MoE:
    """The module of a block's feed-forward part.

    Args:
      config: of a feed-forward block, or of a mixture of experts.
      rngs: source of the initial values.
    Returns:
      A `FeedForward`, or a `MoE`.
    """
    if isinstance(config, MoEConfig):
        return MoE(config, rngs=rngs)
    return FeedForward(config, rngs=rngs)
