"""The plain MLP classifier: hidden layers h = ∏ᵢ φᵢ(x Wᵢ + bᵢ) in a row, then a linear head."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Key

from gelu_jax.errors import Problem, check
from gelu_jax.nn import checks
from gelu_jax.nn.axes import Axes, with_sharding_constraint
from gelu_jax.nn.feed_forward import branch_product, dropout
from gelu_jax.nn.parameters import cast, constant, kernel
from gelu_jax.nn.variants import (
    Variant,
    branches,
    functions,
    learned_branches,
    variant_problems,
)


@dataclass(frozen=True)
class MLPConfig:
    """num_layers hidden layers of width d_ff; the GELU paper's MNIST network is 8 × 128."""

    d_in: int
    num_classes: int
    num_layers: int = 8
    d_ff: int = 128
    variant: Variant = "gelu"
    use_bias: bool = True
    dropout_rate: float = 0.0
    init_std: float | None = None
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32
    kind: Literal["mlp"] = "mlp"

    def __post_init__(self):
        check(self._problems())

    def _problems(self) -> Iterator[Problem]:
        yield from checks.positive(
            d_in=self.d_in,
            num_classes=self.num_classes,
            num_layers=self.num_layers,
            d_ff=self.d_ff,
            init_std=self.init_std,
        )
        yield from checks.rate(dropout_rate=self.dropout_rate)
        yield from checks.floating(dtype=self.dtype, param_dtype=self.param_dtype)
        yield from variant_problems(self.variant)


class HiddenLayer(nnx.Module):
    """One hidden layer: h = ∏ᵢ φᵢ(x Wᵢ + bᵢ), then dropout."""

    axes: ClassVar[Axes] = {"w_in": "d f", "b_in": "f"}

    def __init__(self, config: MLPConfig, d_in: int, *, rngs: nnx.Rngs):
        c, f = config, config.d_ff
        self.config = config
        self.w_in = nnx.List(
            kernel(rngs, (d_in, f), fan_in=d_in, std=c.init_std, dtype=c.param_dtype)
            for _ in branches(c.variant)
        )
        zeros = (constant(0.0, (f,), c.param_dtype) for _ in self.w_in)
        self.b_in = nnx.List(zeros) if c.use_bias else None
        self.learned = learned_branches(c.variant, c.param_dtype)

    def __call__(self, x: Array, dropout_key: Array | None) -> Array:
        c = self.config
        w_in = [cast(w, c.dtype) for w in self.w_in]
        b_in = None if self.b_in is None else [cast(b, c.dtype) for b in self.b_in]
        h = branch_product(x, w_in, variant=functions(c.variant, self.learned), b_in=b_in)
        return dropout(h, c.dropout_rate, dropout_key)


class MLP(nnx.Module):
    """The classifier as an NNX module (Hendrycks & Gimpel 2016, section 3.1).

    >>> MLP(MLPConfig(d_in=64, num_classes=10), rngs=nnx.Rngs(0))(jnp.ones((2, 64))).shape
    (2, 10)
    """

    axes: ClassVar[Axes] = {"head": "f v", "head_bias": "v"}

    def __init__(self, config: MLPConfig, *, rngs: nnx.Rngs):
        self.config = config
        c, f = config, config.d_ff
        widths = [c.d_in] + [f] * (c.num_layers - 1)
        # A key for each layer, so that what one layer draws never shifts another.
        *keys, head_key = jax.random.split(rngs.params(), c.num_layers + 1)
        self.layers = nnx.List(
            HiddenLayer(c, d_in, rngs=nnx.Rngs(key)) for d_in, key in zip(widths, keys, strict=True)
        )
        self.head = kernel(
            nnx.Rngs(head_key), (f, c.num_classes), fan_in=f, std=c.init_std, dtype=c.param_dtype
        )
        self.head_bias = constant(0.0, (c.num_classes,), c.param_dtype) if c.use_bias else None

    def __call__(
        self, x: Float[Array, "b *shape"], *, dropout_key: Key[Array, ""] | None = None
    ) -> Float[Array, "b c"]:
        """Logits in float32."""
        n = self.config.num_layers
        keys = [None] * n if dropout_key is None else jax.random.split(dropout_key, n)
        h = self.enter(x)
        for layer, key in zip(self.layers, keys, strict=True):
            # Laid out at every layer: left to itself, XLA (jax 0.12, CPU) computes a wrong gradient
            # where a mesh spreads the kernels along both axes.
            h = layer(with_sharding_constraint(h, "b d"), key)
        return self.logits(h)

    def enter(self, x: Float[Array, "b *shape"]) -> Float[Array, "b d"]:
        """What the first layer sees: all axes of x but the first flattened to d_in entries."""
        return x.reshape(len(x), -1).astype(self.config.dtype)

    def logits(self, h: Float[Array, "b f"]) -> Float[Array, "b c"]:
        """The head's scores of the classes, in float32."""
        c = self.config
        y = h @ cast(self.head, c.dtype)
        return (y if self.head_bias is None else y + cast(self.head_bias, c.dtype)).astype(
            jnp.float32
        )
