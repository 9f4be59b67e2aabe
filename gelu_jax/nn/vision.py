"""The vision transformer: patches → blocks; and the heads that classify images."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Key

from gelu_jax.errors import Problem, check
from gelu_jax.nn import checks
from gelu_jax.nn.axes import Axes
from gelu_jax.nn.block import BlockConfig
from gelu_jax.nn.dropout import Rngs, Stochastic
from gelu_jax.nn.linear import Linear, LinearConfig, linear_head, require_part
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
      class_token: whether a learned token comes before the patches.
      distillation_token: whether a second one does, which DeiT trains to agree with a teacher.
      mask_token: whether there is a token that stands for hidden patches (DINOv2).
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
    class_token: bool = True
    distillation_token: bool = False
    mask_token: bool = False
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

    @property
    def num_tokens(self) -> int:
        """Patches n and the learned tokens before them."""
        return self.num_patches + self.class_token + self.distillation_token


class VisionTransformer(Stochastic):
    """The stack as an NNX module.

    Parameters: ``w_patch`` (p, p, c, d); ``b_patch``, ``class_token``, ``distillation_token`` and
    ``mask_token`` (d,), or None; ``positions`` (t, d), for all t tokens; ``layers``, one `Block`
    with a leading layer axis; ``embedding_norm``, or None; ``final_norm``.

    Args:
      config: the stack's config.
      rngs: source of the initial values.
    """

    axes: ClassVar[Axes] = {
        "w_patch": "p q c d", "b_patch": "d", "class_token": "d", "distillation_token": "d",
        "mask_token": "d", "positions": "t d",
    }  # fmt: skip

    def __init__(self, config: VisionConfig, *, rngs: nnx.Rngs):
        c = self.config = config
        d, p, dtype, axes = c.block.d_model, c.patch_size, c.param_dtype, self.axes

        def drawn(name: str, shape: tuple[int, ...], fan_in: int) -> nnx.Param[Array]:
            std, names = c.init_std, axes[name]
            return kernel(rngs, shape, fan_in=fan_in, std=std, dtype=dtype, axes=names)

        self.w_patch = drawn("w_patch", (p, p, c.channels, d), p * p * c.channels)
        self.b_patch = constant(0.0, (d,), dtype, axes["b_patch"]) if c.patch_bias else None
        self.class_token = drawn("class_token", (d,), d) if c.class_token else None
        self.positions = drawn("positions", (c.num_tokens, d), d)
        self.layers = init_layers(c.block, c.num_layers, rngs=rngs)
        self.embedding_norm = Norm(c.block.norm, rngs=rngs) if c.embedding_norm else None
        self.final_norm = Norm(c.block.norm, rngs=rngs)
        second = c.distillation_token
        self.distillation_token = drawn("distillation_token", (d,), d) if second else None
        self.mask_token = drawn("mask_token", (d,), d) if c.mask_token else None

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
          Hidden states (b, t, d): the class token's, then the patches'.
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
        hidden_patches: Bool[Array, "b p"] | None = None,
        rngs: Rngs | None = None,
        dropout_key: Key[Array, ""] | None = None,
    ) -> Float[Array, "b n d"]:
        """Computes hidden states before the final norm.

        Args:
          images: (b, height, width, channels).
          deterministic: whether dropout is off, as in `__call__`.
          num_layers: number of layers to apply, from the first on; None applies all.
          hidden_patches: (b, n), True where the mask token stands for a patch; None for nowhere.
          rngs: gives the dropout's key where `dropout_key` is None; its stream is "dropout".
          dropout_key: PRNG key of all dropout.
        Returns:
          Hidden states (b, t, d): the class token's, then the patches'.
        Raises:
          ValueError: dropout is on, and there is no key.
        """
        c = self.config
        key = self.key_of_call(c.block.highest_dropout_rate, deterministic, rngs, dropout_key)
        layers = self.layers if num_layers is None else first_layers(self.layers, num_layers)
        drop: dict[str, Any] = {"deterministic": key is None, "dropout_key": key}
        return apply_layers(
            layers, self._embed(images, hidden_patches), scan=c.scan_layers, **drop
        )[0]

    def _embed(self, images: Array, hidden_patches: Array | None) -> Array:
        c = self.config
        x = patch_embedding(images.astype(c.dtype), cast(self.w_patch, c.dtype))
        x = add_bias(x, None if self.b_patch is None else cast(self.b_patch, c.dtype))
        if hidden_patches is not None:
            token = cast(require_part(self.mask_token, "mask_token"), c.dtype)
            x = jnp.where(hidden_patches[..., None], token, x)
        first = [
            token for token in (self.class_token, self.distillation_token) if token is not None
        ]
        shape = (x.shape[0], 1, x.shape[-1])
        tokens = [jnp.broadcast_to(cast(token, c.dtype), shape) for token in first]
        x = add_bias(jnp.concatenate([*tokens, x], axis=1), cast(self.positions, c.dtype))
        return x if self.embedding_norm is None else self.embedding_norm(x)


@dataclass(frozen=True)
class VisionEncoderConfig:
    """A vision transformer, and which of ViT's heads it has.

    Attributes:
      vision: the vision transformer itself.
      pooler: whether there is a pooler, tanh of a linear map of the class token's state.
      num_classes: classes of the classifier; None for no classifier.
      patch_mean: whether the classifier sees the mean of the patches' states too (DINOv2).
      distilled: whether a second classifier sees the distillation token's state, and the logits are
        the mean of both (DeiT).
      kind: "vision", which tells model configs apart in a config file.

    Raises:
      ConfigError: a field has a wrong value.
    """

    vision: VisionConfig
    pooler: bool = False
    num_classes: int | None = None
    patch_mean: bool = False
    distilled: bool = False
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
        self.classifier = _classifier(config, rngs=rngs)
        distilled = config.distilled and classes is not None
        self.distillation_classifier = (
            linear_head(v, classes or 1, rngs=rngs) if distilled else None
        )

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
          Hidden states (b, t, d): the class token's, then the patches'.
        Raises:
          ValueError: dropout is on, and there is no key.
        """
        return self.vision(images, deterministic, rngs=rngs, dropout_key=dropout_key)

    def pool(self, hidden: Float[Array, "b n d"]) -> Float[Array, "b d"]:
        """Pools the class token's state: tanh(h₀ W + b).

        Args:
          hidden: final hidden states, (b, t, d).
        Returns:
          An array (b, d).
        Raises:
          ValueError: the model has no pooler.
        """
        return jnp.tanh(require_part(self.pooler, "pooler")(hidden[:, 0]))

    def logits(self, hidden: Float[Array, "b n d"]) -> Float[Array, "b e"]:
        """Classifies images by the class token's state, and by what else the config says.

        Args:
          hidden: final hidden states, (b, t, d).
        Returns:
          Logits (b, classes) in float32.
        Raises:
          ValueError: the model has no classifier.
        """
        x = hidden[:, 0]
        if self.config.patch_mean:
            x = jnp.concatenate([x, hidden[:, 1:].mean(1)], axis=-1)
        logits = require_part(self.classifier, "classifier")(x).astype(jnp.float32)
        if self.distillation_classifier is None:
            return logits
        return (logits + self.distillation_classifier(hidden[:, 1]).astype(jnp.float32)) / 2


def _classifier(config: VisionEncoderConfig, *, rngs: nnx.Rngs) -> Linear | None:
    v, classes = config.vision, config.num_classes
    if classes is None or not config.patch_mean:
        return None if classes is None else linear_head(v, classes, rngs=rngs)
    dtypes: dict[str, Any] = {"dtype": v.dtype, "param_dtype": v.param_dtype}
    of_both = LinearConfig(2 * v.block.d_model, classes, init_std=v.init_std, **dtypes)
    return Linear(of_both, rngs=rngs)
