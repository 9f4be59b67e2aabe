"""The feed-forward block: FFN(x) = h W_out + b_out, h = ∏ᵢ φᵢ(x Wᵢ + bᵢ), normed where asked.

A variant is the tuple of its branch activations φᵢ (`gelu_jax.nn.variants`); everything else
(parameter count, matched width, initialisation, the Linen module) follows from the tuple.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from operator import mul
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Key

from gelu_jax.activations import Elementwise
from gelu_jax.activations.elementwise import refuse_jet
from gelu_jax.errors import Problem, check
from gelu_jax.nn import checks
from gelu_jax.nn.axes import Axes, DotGeneral, Precision, flatten_tokens, matmul
from gelu_jax.nn.branches import LearnedBranch
from gelu_jax.nn.dropout import Rngs, Stochastic, dropout
from gelu_jax.nn.norm import Norm, NormConfig
from gelu_jax.nn.parameters import (
    add_bias,
    bias,
    cast,
    init_problems,
    kernel,
    numbered,
    set_numbered,
    wide_dtype,
)
from gelu_jax.nn.remat import Residuals, checkpoint_if, in_chunks, residual_problems
from gelu_jax.nn.sparse import matmul_of_active_units
from gelu_jax.nn.variants import (
    Variant,
    branch_functions,
    branches,
    learned_branches,
    num_learned,
    variant_problems,
)

Rounding = Literal["once", "hf"]


def feed_forward(
    x: Float[Array, "... d"],
    w_in: Sequence[Float[Array, "d f"]],
    w_out: Float[Array, "f e"],
    *,
    variant: Variant = "swiglu",
    b_in: Sequence[Float[Array, " f"]] | None = None,
    b_out: Float[Array, " e"] | None = None,
    hidden_norm: Callable[[Array], Array] | None = None,
    dropout_rate: float = 0.0,
    dropout_key: Key[Array, ""] | None = None,
    residuals: Residuals = "preactivation",
    residual_dtype: DTypeLike | None = None,
    chunk_size: int | None = None,
    rounding: Rounding = "once",
    precision: Precision | None = None,
    dot_general: DotGeneral | None = None,
    active_units: int | None = None,
    out_sharding: Any = None,
) -> Float[Array, "... e"]:
    """The feed-forward equation, (∏ᵢ φᵢ(x Wᵢ + bᵢ)) W_out + b_out (Shazeer 2020, equations 5–6).

    Args:
      x: input, (..., d), of any floating dtype.
      w_in: one kernel (d, f) per branch, in the order of the variant's activations: for "swiglu"
        the gate, then the up projection.
      w_out: output kernel, (f, e).
      variant: the branch activations, as in `branches`.
      b_in: one bias (f,) per branch, or None.
      b_out: output bias, (e,), or None.
      hidden_norm: norms the hidden layer, (…, f) → (…, f), before W_out; a module or another JAX
        tree that is a function, such as a `Norm`. Nothing more is kept for it. None for no norm.
      dropout_rate: probability with which an entry of the hidden layer is zeroed.
      dropout_key: PRNG key of the dropout; None drops nothing.
      residuals: what is kept for the backward pass beside x and the weights, in tensors of f
        entries per token, for n branches: "preactivation" n, with no matmul repeated; "input"
        none, with the branches' matmuls repeated; "all" what plain autodiff keeps.
      residual_dtype: narrow dtype ("float8_e4m3fn", "float8_e5m2", "float16", "bfloat16") of the
        stored pre-activations. The output stays exact; derivatives are taken at the stored values
        (float8_e4m3fn: cosine to the exact gradient at least 0.999). None stores them as they are.
      chunk_size: number of tokens (along the axis before d) computed at a time, at most, in chunks
        of about equal size, each with a dropout key of its own. With ``residuals="input"`` the
        memory in use beside x and the result does not grow with the number of tokens; a batch of
        several rows is copied, as wide as d. None computes all at once.
      rounding: "once" or "hf", as in `branch_product`.
      precision: "default", "high" or "highest", of the matrix products; None for JAX's own choice.
      dot_general: called for the matrix products in the place of `jax.lax.dot_general`, as in
        flax's layers; None for that.
      active_units: for inference with hidden layers that are mostly zero (relu, relu_squared,
        fatrelu, geglu_top_k): the most units whose rows of W_out are read for a single
        token on a CPU, as in `matmul_of_active_units`. None reads all rows.
      out_sharding: a sharding or `PartitionSpec` of the result on an explicit mesh; None keeps that
        of the tokens.
    Returns:
      An array (..., e) of the dtype of x.
    Raises:
      ValueError: an unknown variant or choice, or a wrong number of kernels.
      NotImplementedError: x comes from `jax.experimental.jet`.

    >>> x, gate, up, out = jnp.ones((2, 4)), jnp.ones((4, 8)), jnp.ones((4, 8)), jnp.ones((8, 4))
    >>> feed_forward(x, (gate, up), out, variant="swiglu").shape
    (2, 4)
    """
    check(choice_problems(residuals, residual_dtype, chunk_size, rounding))
    check(checks.positive(active_units=active_units))
    refuse_jet(x, "feed_forward")

    product = partial(matmul, precision=precision, dot_general=dot_general)
    options = dropout_rate, residuals, residual_dtype, rounding
    out_product = partial(product, out_sharding=out_sharding)
    if active_units is not None:
        dense = out_product
        out_product = partial(matmul_of_active_units, active_units=active_units, product=dense)
    output = output_part(out_product, add_bias, x.dtype, *options)

    # A checkpointed function keeps only its arguments for the backward pass, where it is computed
    # again: the residual choice is where the checkpoint begins.

    @checkpoint_if(residuals == "input")
    def block(x: Array, weights: Any, key: Any) -> Array:
        w_in, b_in, *rest = weights
        ps = pre_activations(flatten_tokens(x), w_in, b_in, product, add_bias)
        y = output(ps, rest, key)
        return y.reshape(*x.shape[:-1], w_out.shape[-1])

    apply = block if chunk_size is None else in_chunks(block, chunk_size, w_out.shape[-1])
    phis = functions_of_branches(variant, w_in)
    return apply(x, (w_in, b_in, phis, hidden_norm, w_out, b_out), dropout_key)


def output_part(
    product: Callable[..., Array],
    add: Callable[..., Array],
    dtype: DTypeLike,
    dropout_rate: float,
    residuals: Residuals,
    residual_dtype: DTypeLike | None,
    rounding: Rounding,
) -> Callable[..., Array]:
    """From the pre-activations pᵢ to the output, (∏ᵢ φᵢ(pᵢ)) W_out + b_out, as one function.

    Args:
      product: of rows and kernel.
      add: adds b_out to that.
      dtype: of the hidden layer and the output.
      dropout_rate: as in `feed_forward`.
      residuals: as in `feed_forward`.
      residual_dtype: as in `feed_forward`.
      rounding: as in `branch_product`.
    Returns:
      A function of the list of pᵢ, (..., f), the tuple (φs, hidden norm, W_out, b_out), a dropout
      key or None, and optionally a factor of every row of the hidden layer, (..., 1).
    """

    @checkpoint_if(residuals == "preactivation", residual_dtype)
    def output(ps: Sequence[Array], weights: Any, key: Any, scale: Array | None = None) -> Array:
        # Masks wait for their pre-activations: else XLA draws those of all layers ahead of time.
        ps, key = jax.lax.optimization_barrier((ps, key))
        phis, norm, w_out, b_out = weights
        h = _product(phis, ps, dtype, rounding, scale)
        h = dropout(h if norm is None else norm(h), dropout_rate, key)
        return add(product(h, w_out), b_out).astype(dtype)

    return output


def branch_product(
    x: Float[Array, "... d"],
    w_in: Sequence[Float[Array, "d f"]],
    *,
    variant: Variant,
    b_in: Sequence[Float[Array, " f"]] | None = None,
    rounding: Rounding = "once",
    precision: Precision | None = None,
    dot_general: DotGeneral | None = None,
) -> Float[Array, "... f"]:
    """The hidden layer h = ∏ᵢ φᵢ(x Wᵢ + bᵢ).

    The pre-activations have the dtype of ``x @ w``; activations and their product are computed in
    float32 (float64 stays).

    Args:
      x: input, (..., d), of any floating dtype.
      w_in: one kernel (d, f) per branch, in the order of the variant's activations.
      variant: the branch activations, as in `branches`.
      b_in: one bias (f,) per branch, or None.
      rounding: "once" rounds the product alone to the dtype of x; "hf" rounds every activation
        and every product, the order of ``act(gate) * up`` in torch models.
      precision: as in `feed_forward`.
      dot_general: as in `feed_forward`.
    Returns:
      An array (..., f) of the dtype of x.
    Raises:
      ValueError: an unknown variant, or a wrong number of kernels.
    """
    phis = functions_of_branches(variant, w_in)
    product = partial(matmul, precision=precision, dot_general=dot_general)
    ps = pre_activations(flatten_tokens(x), w_in, b_in, product, add_bias)
    return _product(phis, ps, x.dtype, rounding).reshape(*x.shape[:-1], w_in[0].shape[-1])


def functions_of_branches(variant: Variant, w_in: Sequence[Array]) -> tuple[Elementwise, ...]:
    """The branches of a variant as functions, one for each kernel.

    Args:
      variant: the branch activations, as in `branches`.
      w_in: the kernels.
    Returns:
      The functions, which are JAX trees of their parameters.
    Raises:
      ValueError: an unknown variant, or a wrong number of kernels.
    """
    phis = branches(variant)
    if len(w_in) != len(phis):
        raise ValueError(
            f"w_in = {len(w_in)} kernels: variant {variant!r} has {len(phis)} branches"
        )
    return branch_functions(phis)


def pre_activations(
    x: Array,
    w_in: Sequence[Array],
    b_in: Sequence[Array] | None,
    product: Callable[..., Array],
    add: Callable[..., Array],
) -> Sequence[Array]:
    """The pre-activations x Wᵢ + bᵢ.

    Args:
      x: rows, (..., d).
      w_in: one kernel for each branch.
      b_in: one bias for each branch, or None.
      product: of rows and kernel.
      add: adds a bias to that.
    Returns:
      One array (..., f) for each branch.
    """
    ps = [product(x, w) for w in w_in]
    return ps if b_in is None else [add(p, b) for p, b in zip(ps, b_in, strict=True)]


def _product(
    phis: Sequence[Elementwise],
    ps: Sequence[Array],
    dtype: DTypeLike,
    rounding: Rounding,
    scale: Array | None = None,
) -> Array:
    wide = wide_dtype(dtype)
    within = wide if rounding == "once" else dtype
    values = [phi(p.astype(wide)).astype(within) for phi, p in zip(phis, ps, strict=True)]
    h = reduce(mul, values)
    return (h if scale is None else h * scale.astype(h.dtype)).astype(dtype)


@dataclass(frozen=True)
class FeedForwardConfig:
    """What a feed-forward block is made of; `gelu_jax.nn.parameters` says how it is initialised.

    Attributes:
      d_model: width of the input.
      d_ff: width of the hidden layer.
      variant: the branch activations, as in `branches`.
      use_bias: whether every branch and the output have a bias.
      hidden_norm: "rms" or "layer" norms the hidden layer before `w_out`, by a scale of d_ff
        entries that starts at 1 ("rms": BitNet b1.58 2B4T); None for no norm. The hidden layer is
        rounded to `dtype` before the norm, which is computed in float32, and after it.
      hidden_norm_epsilon: added to that norm's mean of squares.
      dropout_rate: dropout of the hidden layer, in [0, 1).
      residuals: what is kept for the backward pass, as in `feed_forward`.
      residual_dtype: narrow dtype of the kept pre-activations, as in `feed_forward`.
      chunk_size: tokens computed at a time, as in `feed_forward`; None computes all at once.
      rounding: where low precision is rounded, as in `branch_product`.
      init_std: standard deviation of all kernels; None for 1/√fan_in each.
      output_init_scale: multiplies the standard deviation of `w_out`.
      dtype: dtype that the block computes in.
      param_dtype: dtype that the parameters are stored in.
      d_out: width of the output; None for d_model.
      kernel_init: initializer of all kernels, of flax or JAX, in the place of init_std; None for
        the normal distribution.
      bias_init: initializer of all biases; None for zeros.
      precision: of the matrix products, as in `feed_forward`.
      dot_general: of the matrix products, as in `feed_forward`.
      active_units: rows of `w_out` read for a single token, as in `feed_forward`.

    Raises:
      ConfigError: a field has a wrong value.

    >>> FeedForwardConfig(d_model=512, d_ff=1368, variant="swiglu").num_parameters
    2101248
    """

    d_model: int
    d_ff: int
    variant: Variant = "gelu"
    use_bias: bool = False
    dropout_rate: float = 0.0
    residuals: Residuals = "preactivation"
    residual_dtype: DTypeLike | None = None
    chunk_size: int | None = None
    rounding: Rounding = "once"
    init_std: float | None = None
    output_init_scale: float = 1.0
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32
    d_out: int | None = None
    kernel_init: nnx.Initializer | None = None
    bias_init: nnx.Initializer | None = None
    precision: Precision | None = None
    dot_general: DotGeneral | None = None
    hidden_norm: Literal["rms", "layer"] | None = None
    hidden_norm_epsilon: float = 1e-6
    active_units: int | None = None

    def __post_init__(self):
        checks.field_types(self)
        check(self._problems())

    def _problems(self) -> Iterator[Problem]:
        yield from checks.positive(
            d_model=self.d_model,
            d_ff=self.d_ff,
            init_std=self.init_std,
            d_out=self.d_out,
            active_units=self.active_units,
        )
        yield from checks.small(hidden_norm_epsilon=self.hidden_norm_epsilon)
        if self.hidden_norm is not None:
            yield from checks.one_of(("rms", "layer"), hidden_norm=self.hidden_norm)
        yield from checks.below_one(dropout_rate=self.dropout_rate)
        yield from checks.floating(dtype=self.dtype, param_dtype=self.param_dtype)
        yield from choice_problems(
            self.residuals, self.residual_dtype, self.chunk_size, self.rounding
        )
        yield from variant_problems(self.variant)
        yield from init_problems(self.init_std, self.kernel_init)
        yield from checks.precision(self.precision)

    @property
    def output_width(self) -> int:
        """Width of the output."""
        return self.d_out or self.d_model

    @property
    def num_branches(self) -> int:
        """Number of kernels in `w_in`."""
        return len(branches(self.variant))

    @property
    def num_parameters(self) -> int:
        """Entries of weights and biases, and what the branches themselves learn."""
        n, d, f, e = self.num_branches, self.d_model, self.d_ff, self.output_width
        biases, scales = self.use_bias * (n * f + e), f * (self.hidden_norm is not None)
        return n * d * f + f * e + biases + scales + num_learned(self.variant)


def choice_problems(
    residuals: str, residual_dtype: DTypeLike | None, chunk_size: int | None, rounding: str
) -> Iterator[Problem]:
    """Checks the choices that a block leaves to its caller.

    Args:
      residuals: as in `feed_forward`.
      residual_dtype: as in `feed_forward`.
      chunk_size: as in `feed_forward`.
      rounding: as in `branch_product`.
    Returns:
      The problems found.
    """
    yield from residual_problems(residuals, residual_dtype, chunk_size)
    yield from checks.one_of(("once", "hf"), rounding=rounding)


class HiddenNorm(Norm):
    """The norm of a hidden layer, whose parameters lie along its units."""

    axes: ClassVar[Axes] = {"scale": "f", "bias": "f"}


class HiddenLayer(Stochastic):
    """The hidden layer alone as an NNX module, h = ∏ᵢ φᵢ(x Wᵢ + bᵢ), its norm, then dropout.

    Parameters: for each branch i a kernel ``w_in_i`` (d, f), and a bias ``b_in_i`` (f,) where the
    block has any; for each branch with parameters of its own, in order, a module ``learned_i``;
    ``hidden_norm``, a norm with ``scale`` (f,), or None.

    Args:
      config: the block that this is the hidden layer of; what concerns its output is not used.
      rngs: source of the initial values.

    >>> HiddenLayer(FeedForwardConfig(d_model=4, d_ff=8), rngs=nnx.Rngs(0))(jnp.ones((2, 4))).shape
    (2, 8)
    """

    axes: ClassVar[Axes] = {"w_in": "d f", "b_in": "f"}

    def __init__(self, config: FeedForwardConfig, *, rngs: nnx.Rngs):
        self.config = config
        d, f, std, dtype = config.d_model, config.d_ff, config.init_std, config.param_dtype
        kernels = [
            kernel(
                rngs,
                (d, f),
                fan_in=d,
                std=std,
                dtype=dtype,
                init=config.kernel_init,
                axes=self.axes["w_in"],
            )
            for _ in range(config.num_branches)
        ]
        set_numbered(self, "w_in", kernels)
        biases = kernels if config.use_bias else ()
        start = partial(bias, rngs, (f,), dtype, config.bias_init, axes=self.axes["b_in"])
        set_numbered(self, "b_in", (start() for _ in biases))
        set_numbered(self, "learned", learned_branches(config.variant, dtype))
        kind, epsilon = config.hidden_norm, config.hidden_norm_epsilon
        self.hidden_norm = kind and HiddenNorm(
            NormConfig(f, kind, epsilon=epsilon, dtype=config.dtype, param_dtype=dtype), rngs=rngs
        )

    @property
    def w_in(self) -> tuple[nnx.Param[Array], ...]:
        """The kernels, one for each branch."""
        return numbered(self, "w_in")

    @property
    def b_in(self) -> tuple[nnx.Param[Array], ...] | None:
        """The biases, one for each branch, or None."""
        return numbered(self, "b_in") or None

    @property
    def learned(self) -> tuple[LearnedBranch, ...] | None:
        """The modules of the branches that have parameters of their own, or None."""
        return numbered(self, "learned") or None

    def __call__(
        self,
        x: Float[Array, "... d"],
        deterministic: bool | None = None,
        *,
        rngs: Rngs | None = None,
        dropout_key: Key[Array, ""] | None = None,
    ) -> Float[Array, "... f"]:
        """Computes h in ``config.dtype``.

        Args:
          x: input, (..., d), of any floating dtype.
          deterministic: whether dropout is off; None for what `nnx.Module.train` and
            `nnx.Module.eval` set last, and on in a new module.
          rngs: gives the dropout's key where `dropout_key` is None; its stream is "dropout".
          dropout_key: PRNG key of the dropout.
        Returns:
          An array (..., f) of ``config.dtype``.
        Raises:
          ValueError: dropout is on, and there is no key.
        """
        c = self.config
        key = self.key_of_call(c.dropout_rate, deterministic, rngs, dropout_key)
        h = branch_product(
            x.astype(c.dtype),
            [cast(w, c.dtype) for w in self.w_in],
            variant=branch_functions(c.variant, self.learned),
            b_in=None if self.b_in is None else [cast(b, c.dtype) for b in self.b_in],
            rounding=c.rounding,
            precision=c.precision,
            dot_general=c.dot_general,
        )
        h = h if self.hidden_norm is None else self.hidden_norm(h)
        return dropout(h, c.dropout_rate, key)


class FeedForward(HiddenLayer):
    """The block as an NNX module: a hidden layer, then h W_out + b_out.

    Parameters: those of `HiddenLayer`; ``w_out``, (f, e); ``b_out``, (e,), or None.

    Args:
      config: the block's config.
      rngs: source of the initial values.

    >>> ffn = FeedForward(FeedForwardConfig(d_model=4, d_ff=8), rngs=nnx.Rngs(0))
    >>> ffn(jnp.ones((2, 4))).shape
    (2, 4)
    """

    axes: ClassVar[Axes] = {**HiddenLayer.axes, "w_out": "f d", "b_out": "d"}

    def __init__(self, config: FeedForwardConfig, *, rngs: nnx.Rngs):
        # w_out and the first branch are drawn first, so that variants of one width share them.
        self._init_output(config, rngs)
        super().__init__(config, rngs=rngs)

    def _init_output(self, config: FeedForwardConfig, rngs: nnx.Rngs) -> None:
        f, e, std, dtype = config.d_ff, config.output_width, config.init_std, config.param_dtype
        scale, axes = config.output_init_scale, self.axes
        self.w_out = kernel(
            rngs, (f, e), fan_in=f, std=std, scale=scale, dtype=dtype,
            init=config.kernel_init, axes=axes["w_out"],
        )  # fmt: skip
        start = partial(bias, rngs, (e,), dtype, config.bias_init, axes=axes["b_out"])
        self.b_out = start() if config.use_bias else None

    def __call__(
        self,
        x: Float[Array, "... d"],
        deterministic: bool | None = None,
        *,
        rngs: Rngs | None = None,
        dropout_key: Key[Array, ""] | None = None,
        out_sharding: Any = None,
    ) -> Float[Array, "... e"]:
        """Computes the block in ``config.dtype``, whatever the dtype of x, as flax's layers do.

        Args:
          x: input, (..., d), of any floating dtype.
          deterministic: whether dropout is off; None for what `nnx.Module.train` and
            `nnx.Module.eval` set last, and on in a new module.
          rngs: gives the dropout's key where `dropout_key` is None; its stream is "dropout".
          dropout_key: PRNG key of the dropout.
          out_sharding: of the result, as in `feed_forward`.
        Returns:
          An array (..., e) of ``config.dtype``.
        Raises:
          ValueError: dropout is on, and there is no key.
        """
        c = self.config
        return feed_forward(
            x.astype(c.dtype),
            [cast(w, c.dtype) for w in self.w_in],
            cast(self.w_out, c.dtype),
            variant=branch_functions(c.variant, self.learned),
            b_in=None if self.b_in is None else [cast(b, c.dtype) for b in self.b_in],
            b_out=None if self.b_out is None else cast(self.b_out, c.dtype),
            hidden_norm=self.hidden_norm,
            dropout_rate=c.dropout_rate,
            dropout_key=self.key_of_call(c.dropout_rate, deterministic, rngs, dropout_key),
            residuals=c.residuals,
            residual_dtype=c.residual_dtype,
            chunk_size=c.chunk_size,
            rounding=c.rounding,
            precision=c.precision,
            dot_general=c.dot_general,
            active_units=c.active_units,
            out_sharding=out_sharding,
        )
