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
from gelu_jax.nn.axes import Axes, matmul, with_sharding_constraint
from gelu_jax.nn.dropout import Rngs, Stochastic, split_key
from gelu_jax.nn.feed_forward import FeedForwardConfig, HiddenLayer
from gelu_jax.nn.parameters import (
    add_bias,
    cast,
    constant,
    kernel,
    numbered,
    set_numbered,
)
from gelu_jax.nn.variants import Variant, variant_problems


@dataclass(frozen=True)
class MLPConfig:
    """What the classifier is made of; the GELU paper's MNIST network is 8 × 128.

    Attributes:
      d_in: entries of one example.
      num_classes: number of classes.
      num_layers: number of hidden layers.
      d_ff: width of every hidden layer.
      variant: the branch activations, as in `branches`.
      use_bias: whether every branch and the head have a bias.
      dropout_rate: dropout after every hidden layer, in [0, 1).
      init_std: standard deviation of all kernels; None for 1/√fan_in each.
      dtype: dtype that the network computes in; logits are float32.
      param_dtype: dtype that the parameters are stored in.
      kind: "mlp", which tells model configs apart in a config file.

    Raises:
      ConfigError: a field has a wrong value.
    """

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
        checks.field_types(self)
        check(self._problems())

    def _problems(self) -> Iterator[Problem]:
        yield from checks.positive(
            d_in=self.d_in,
            num_classes=self.num_classes,
            num_layers=self.num_layers,
            d_ff=self.d_ff,
            init_std=self.init_std,
        )
        yield from checks.below_one(dropout_rate=self.dropout_rate)
        yield from checks.floating(dtype=self.dtype, param_dtype=self.param_dtype)
        yield from variant_problems(self.variant)

    @property
    def hidden_layers(self) -> tuple[FeedForwardConfig, ...]:
        """The config of each hidden layer: the first has the width of an example as its input."""
        return tuple(
            FeedForwardConfig(
                d_model=width,
                d_ff=self.d_ff,
                variant=self.variant,
                use_bias=self.use_bias,
                dropout_rate=self.dropout_rate,
                init_std=self.init_std,
                dtype=self.dtype,
                param_dtype=self.param_dtype,
            )
            for width in (self.d_in, *[self.d_ff] * (self.num_layers - 1))
        )


class MLP(Stochastic):
    """The classifier as an NNX module (Hendrycks & Gimpel 2016, section 3.1).

    Parameters: ``layers_i``, a `HiddenLayer` each; ``head``, (f, classes); ``head_bias``,
    (classes,), or None.

    Args:
      config: the network's config.
      rngs: source of the initial values.

    >>> MLP(MLPConfig(d_in=64, num_classes=10), rngs=nnx.Rngs(0))(jnp.ones((2, 64))).shape
    (2, 10)
    """

    axes: ClassVar[Axes] = {"head": "f v", "head_bias": "v"}

    def __init__(self, config: MLPConfig, *, rngs: nnx.Rngs):
        c = self.config = config
        # A key for each layer, so that what one layer draws never shifts another.
        *keys, head_key = jax.random.split(rngs.params(), c.num_layers + 1)
        layers = zip(c.hidden_layers, keys, strict=True)
        set_numbered(
            self, "layers", (HiddenLayer(layer, rngs=nnx.Rngs(key)) for layer, key in layers)
        )
        shape, dtype, axes = (c.d_ff, c.num_classes), c.param_dtype, self.axes
        head_rngs = nnx.Rngs(head_key)
        self.head = kernel(
            head_rngs, shape, fan_in=c.d_ff, std=c.init_std, dtype=dtype, axes=axes["head"]
        )
        zeros = constant(0.0, (c.num_classes,), dtype, axes["head_bias"])
        self.head_bias = zeros if c.use_bias else None

    @property
    def layers(self) -> tuple[HiddenLayer, ...]:
        """The hidden layers, the first one first."""
        return numbered(self, "layers")

    def __call__(
        self,
        x: Float[Array, "b *shape"],
        deterministic: bool | None = None,
        *,
        rngs: Rngs | None = None,
        dropout_key: Key[Array, ""] | None = None,
    ) -> Float[Array, "b c"]:
        """Computes the logits.

        Args:
          x: examples, (b, ...), d_in entries each.
          deterministic: whether dropout is off; None for what `nnx.Module.train` and
            `nnx.Module.eval` set last, and on in a new module.
          rngs: gives the dropout's key where `dropout_key` is None; its stream is "dropout".
          dropout_key: PRNG key of the dropout.
        Returns:
          Logits (b, classes) in float32.
        Raises:
          ValueError: dropout is on, and there is no key.
        """
        c, n = self.config, self.config.num_layers
        dropout_key = self.key_of_call(c.dropout_rate, deterministic, rngs, dropout_key)
        h = self.flatten(x)
        for layer, key in zip(self.layers, split_key(dropout_key, n), strict=True):
            # Constrained at every layer: left to itself, XLA (jax 0.12, CPU) computes a wrong
            # gradient where a mesh shards the kernels along both axes.
            h = layer(with_sharding_constraint(h, "b -"), key is None, dropout_key=key)
        return self.logits(h)

    def flatten(self, x: Float[Array, "b *shape"]) -> Float[Array, "b d"]:
        """Flattens the examples: the input of the first layer.

        Args:
          x: examples, (b, ...), d_in entries each.
        Returns:
          An array (b, d_in) of ``config.dtype``.
        """
        return x.reshape(x.shape[0], self.config.d_in).astype(self.config.dtype)

    def logits(self, h: Float[Array, "b f"]) -> Float[Array, "b c"]:
        """Applies the head.

        Args:
          h: output of the last layer, (b, f).
        Returns:
          Logits (b, classes) in float32.
        """
        dtype = self.config.dtype
        bias = None if self.head_bias is None else cast(self.head_bias, dtype)
        return add_bias(matmul(h, cast(self.head, dtype)), bias).astype(jnp.float32)
