"""The vision transformer: patches → blocks; and the heads that classify images."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Key

from gelu_jax.errors import Problem, check
from gelu_jax.nn import checks
from gelu_jax.nn.axes import Axes
from gelu_jax.nn.block import BlockConfig
from gelu_jax.nn.dropout import Rngs, Stochastic
from gelu_jax.nn.linear import linear_head, require_part
from gelu_jax.nn.norm import Norm
from gelu_jax.nn.parameters import add_bias, cast, constant, kernel
from gelu_jax.nn.stack import apply_layers, first_layers, init_layers


def patch_embedding(
    images: Float[Array, "b y x c"], w: Float[Array, "p q c d"]
) -> Float[Array, "b n d"]:
    """Multiplies each p × q patch by a matrix (Dosovitskiy et al. 2021, equation 1).

    Args:
      images: (b, y, x, c); p divides y and q divides x.
      w: (p, q, c, d).
    Returns:
      Patches (b, n, d), row by row.

    >>> patch_embedding(jnp.ones((1, 4, 4, 3)), jnp.ones((2, 2, 3, 8))).shape
    (1, 4, 8)
    """
    b, y, x, c = images.shape
    p, q = w.shape[:2]
    patches = images.reshape(b, y // p, p, x // q, q, c)
    return jnp.einsum("bipjqc,pqcd->bijd", patches, w).reshape(b, y // p * (x // q), w.shape[-1])


@dataclass(frozen=True)
class VisionConfig:
    """A stack of equal blocks over the patches of square images, a class token first.

    Attributes:
      image_size: height and width of an image.
      patch_size: height and width of a patch, a divisor of image_size.
      num_layers: number of blocks.
      block: the config of every block; its attention is not causal.
      channels: of an image.
      patch_bias: whether the patch embedding has a bias (ViT).
      embedding_norm: whether there is a norm before the first block (CLIP).
      scan_layers: True compiles one block for all layers, False unrolls them; None scans more than
        8 layers.
      init_std: standard deviation of the patch embedding, the class token and the positions; None
        for 1/√fan_in each.
      dtype: dtype that the embeddings compute in.
      param_dtype: dtype that the embeddings are stored in.

    Raises:
      ConfigError: a field has a wrong value.
    """

    image_size: int
    patch_size: int
    num_layers: int
    block: BlockConfig
    channels: int = 3
    patch_bias: bool = True
    embedding_norm: bool = False
    scan_layers: bool | None = None
    init_std: float | None = None
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    def __post_init__(self):
        checks.field_types(self)
        check(self._problems())

    def _problems(self) -> Iterator[Problem]:
        yield from checks.positive(
            image_size=self.image_size,
            patch_size=self.patch_size,
            num_layers=self.num_layers,
            channels=self.channels,
            init_std=self.init_std,
        )
        yield from checks.floating(dtype=self.dtype, param_dtype=self.param_dtype)
        yield from checks.divides(self.image_size, "image_size", patch_size=self.patch_size)

    @property
    def num_patches(self) -> int:
        """Number of patches n of one image."""
        return (self.image_size // self.patch_size) ** 2


class VisionTransformer(Stochastic):
    """The stack as an NNX module.

    Parameters: ``w_patch`` (p, p, c, d); ``b_patch`` (d,), or None; ``class_token`` (d,);
    ``positions`` (1 + n, d); ``layers``, one `Block` with a leading layer axis;
    ``embedding_norm``, or None; ``final_norm``.

    Args:
      config: the stack's config.
      rngs: source of the initial values.
    """

    axes: ClassVar[Axes] = {
        "w_patch": "p q c d", "b_patch": "d", "class_token": "d", "positions": "t d",
    }  # fmt: skip

    def __init__(self, config: VisionConfig, *, rngs: nnx.Rngs):
        c = self.config = config
        d, p, dtype, axes = c.block.d_model, c.patch_size, c.param_dtype, self.axes

        def drawn(name: str, shape: tuple[int, ...], fan_in: int) -> nnx.Param[Array]:
            std, names = c.init_std, axes[name]
            return kernel(rngs, shape, fan_in=fan_in, std=std, dtype=dtype, axes=names)

        self.w_patch = drawn("w_patch", (p, p, c.channels, d), p * p * c.channels)
        self.b_patch = constant(0.0, (d,), dtype, axes["b_patch"]) if c.patch_bias else None
        self.class_token = drawn("class_token", (d,), d)
        self.positions = drawn("positions", (1 + c.num_patches, d), d)
        self.layers = init_layers(c.block, c.num_layers, rngs=rngs)
        self.embedding_norm = Norm(c.block.norm, rngs=rngs) if c.embedding_norm else None
        self.final_norm = Norm(c.block.norm, rngs=rngs)

    def __call__(
        self,
        images: Float[Array, "b y x c"],
        deterministic: bool | None = None,
        *,
        rngs: Rngs | None = None,
        dropout_key: Key[Array, ""] | None = None,
    ) -> Float[Array, "b n d"]:
        """Computes the hidden states after the final norm.

        Args:
          images: (b, height, width, channels).
          deterministic: whether dropout is off; None for what `nnx.Module.train` and
            `nnx.Module.eval` set last, and on in a new module.
          rngs: gives the dropout's key where `dropout_key` is None; its stream is "dropout".
          dropout_key: PRNG key of all dropout.
        Returns:
          Hidden states (b, 1 + n, d): the class token's, then the patches'.
        Raises:
          ValueError: dropout is on, and there is no key.
        """
        return self.final_norm(
            self.hidden(images, deterministic, rngs=rngs, dropout_key=dropout_key)
        )

    def hidden(
        self,
        images: Float[Array, "b y x c"],
        deterministic: bool | None = None,
        *,
        num_layers: int | None = None,
        rngs: Rngs | None = None,
        dropout_key: Key[Array, ""] | None = None,
    ) -> Float[Array, "b n d"]:
        """Computes hidden states before the final norm.

        Args:
          images: (b, height, width, channels).
          deterministic: whether dropout is off, as in `__call__`.
          num_layers: number of layers to apply, from the first on; None applies all.
          rngs: gives the dropout's key where `dropout_key` is None; its stream is "dropout".
          dropout_key: PRNG key of all dropout.
        Returns:
          Hidden states (b, 1 + n, d): the class token's, then the patches'.
        Raises:
          ValueError: dropout is on, and there is no key.
        """
        c = self.config
        key = self.key_of_call(c.block.highest_dropout_rate, deterministic, rngs, dropout_key)
        layers = self.layers if num_layers is None else first_layers(self.layers, num_layers)
        drop: dict[str, Any] = {"deterministic": key is None, "dropout_key": key}
        return apply_layers(layers, self._embed(images), scan=c.scan_layers, **drop)[0]

    def _embed(self, images: Array) -> Array:
        c = self.config
        x = patch_embedding(images.astype(c.dtype), cast(self.w_patch, c.dtype))
        x = add_bias(x, None if self.b_patch is None else cast(self.b_patch, c.dtype))
        token = jnp.broadcast_to(cast(self.class_token, c.dtype), (x.shape[0], 1, x.shape[-1]))
        x = add_bias(jnp.concatenate([token, x], axis=1), cast(self.positions, c.dtype))
        return x if self.embedding_norm is None else self.embedding_norm(x)


@dataclass(frozen=True)
class VisionEncoderConfig:
    """A vision transformer, and which of ViT's heads it has.

    Attributes:
      vision: the vision transformer itself.
      pooler: whether there is a pooler, tanh of a linear map of the class token's state.
      num_classes: classes of the classifier; None for no classifier.
      kind: "vision", which tells model configs apart in a config file.

    Raises:
      ConfigError: a field has a wrong value.
    """

    vision: VisionConfig
    pooler: bool = False
    num_classes: int | None = None
    kind: Literal["vision"] = "vision"

    def __post_init__(self):
        checks.field_types(self)
        check(checks.positive(num_classes=self.num_classes))


class VisionEncoder(nnx.Module):
    """ViT as an NNX module.

    Args:
      config: the model's config.
      rngs: source of the initial values.
    """

    def __init__(self, config: VisionEncoderConfig, *, rngs: nnx.Rngs):
        self.config = config
        v, classes = config.vision, config.num_classes
        self.vision = VisionTransformer(v, rngs=rngs)
        self.pooler = linear_head(v, v.block.d_model, rngs=rngs) if config.pooler else None
        self.classifier = None if classes is None else linear_head(v, classes, rngs=rngs)

    def __call__(
        self,
        images: Float[Array, "b y x c"],
        deterministic: bool | None = None,
        *,
        rngs: Rngs | None = None,
        dropout_key: Key[Array, ""] | None = None,
    ) -> Float[Array, "b n d"]:
        """Computes the final hidden states.

        Args:
          images: (b, height, width, channels).
          deterministic: whether dropout is off; None for what `nnx.Module.train` and
            `nnx.Module.eval` set last, and on in a new module.
          rngs: gives the dropout's key where `dropout_key` is None; its stream is "dropout".
          dropout_key: PRNG key of all dropout.
        Returns:
          Hidden states (b, 1 + n, d): the class token's, then the patches'.
        Raises:
          ValueError: dropout is on, and there is no key.
        """
        return self.vision(images, deterministic, rngs=rngs, dropout_key=dropout_key)

    def pool(self, hidden: Float[Array, "b n d"]) -> Float[Array, "b d"]:
        """Pools the class token's state: tanh(h₀ W + b).

        Args:
          hidden: final hidden states, (b, 1 + n, d).
        Returns:
          An array (b, d).
        Raises:
          ValueError: the model has no pooler.
        """
        return jnp.tanh(require_part(self.pooler, "pooler")(hidden[:, 0]))

    def logits(self, hidden: Float[Array, "b n d"]) -> Float[Array, "b e"]:
        """Classifies images by the class token's state.

        Args:
          hidden: final hidden states, (b, 1 + n, d).
        Returns:
          Logits (b, classes) in float32.
        Raises:
          ValueError: the model has no classifier.
        """
        return require_part(self.classifier, "classifier")(hidden[:, 0]).astype(jnp.float32)
