"""The vision transformer: patches → blocks; and what stands on it to classify images."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from gelu_jax.errors import Problem, check
from gelu_jax.nn import checks
from gelu_jax.nn.block import BlockConfig
from gelu_jax.nn.linear import linear_on, wanted
from gelu_jax.nn.norm import Norm
from gelu_jax.nn.parameters import cast, constant, kernel
from gelu_jax.nn.stack import first, run, stack


def patch_embedding(
    images: Float[Array, "b y x c"], w: Float[Array, "p q c d"]
) -> Float[Array, "b n d"]:
    """Each p × q patch times a matrix, row by row (Dosovitskiy et al. 2021, equation 1).

    >>> patch_embedding(jnp.ones((1, 4, 4, 3)), jnp.ones((2, 2, 3, 8))).shape
    (1, 4, 8)
    """
    b, y, x, c = images.shape
    p, q = w.shape[:2]
    patches = images.reshape(b, y // p, p, x // q, q, c)
    return jnp.einsum("bipjqc,pqcd->bijd", patches, w).reshape(b, -1, w.shape[-1])


@dataclass(frozen=True)
class VisionConfig:
    """A stack of equal blocks over the patches of square images, a class token first.

    ``patch_bias``: of the patches' map (ViT). ``embedding_norm``: before the first block (CLIP).
    """

    image_size: int
    patch_size: int
    num_layers: int
    block: BlockConfig
    channels: int = 3
    patch_bias: bool = True
    embedding_norm: bool = False
    scan_layers: bool = True
    init_std: float | None = None
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    def __post_init__(self):
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
        """Patches of one image."""
        return (self.image_size // self.patch_size) ** 2


class VisionTransformer(nnx.Module):
    """The stack as an NNX module; images are (b, height, width, channels)."""

    def __init__(self, config: VisionConfig, *, rngs: nnx.Rngs):
        c = self.config = config
        d, p, std, dtype = c.block.d_model, c.patch_size, c.init_std, c.param_dtype
        fan_in = p * p * c.channels
        self.w_patch = kernel(rngs, (p, p, c.channels, d), fan_in=fan_in, std=std, dtype=dtype)
        self.b_patch = constant(0.0, (d,), dtype) if c.patch_bias else None
        self.class_token = kernel(rngs, (d,), fan_in=d, std=std, dtype=dtype)
        self.positions = kernel(rngs, (1 + c.num_patches, d), fan_in=d, std=std, dtype=dtype)
        self.layers = stack(c.block, c.num_layers, rngs=rngs)
        self.embedding_norm = Norm(c.block.norm, rngs=rngs) if c.embedding_norm else None
        self.final_norm = Norm(c.block.norm, rngs=rngs)

    def __call__(self, images: Float[Array, "b y x c"]) -> Float[Array, "b n d"]:
        """Hidden states after the final norm: the class token's, then the patches'."""
        return self.final_norm(self.hidden(images))

    def hidden(
        self, images: Float[Array, "b y x c"], *, num_layers: int | None = None
    ) -> Float[Array, "b n d"]:
        """Hidden states before the final norm, after the first num_layers (None: all)."""
        c = self.config
        layers = self.layers if num_layers is None else first(self.layers, num_layers)
        return run(layers, self._embed(images), scan=c.scan_layers)[0]

    def _embed(self, images: Array) -> Array:
        c = self.config
        x = patch_embedding(images.astype(c.dtype), cast(self.w_patch, c.dtype))
        x = x if self.b_patch is None else x + cast(self.b_patch, c.dtype)
        token = jnp.broadcast_to(cast(self.class_token, c.dtype), (x.shape[0], 1, x.shape[-1]))
        x = jnp.concatenate([token, x], axis=1) + cast(self.positions, c.dtype)
        return x if self.embedding_norm is None else self.embedding_norm(x)


@dataclass(frozen=True)
class VisionEncoderConfig:
    """The vision transformer, and which of ViT's tops it carries."""

    vision: VisionConfig
    pooler: bool = False
    num_classes: int | None = None
    kind: Literal["vision"] = "vision"

    def __post_init__(self):
        check(checks.positive(num_classes=self.num_classes))


class VisionEncoder(nnx.Module):
    """ViT as an NNX module; calling it gives the final hidden states."""

    def __init__(self, config: VisionEncoderConfig, *, rngs: nnx.Rngs):
        self.config = config
        v, classes = config.vision, config.num_classes
        self.vision = VisionTransformer(v, rngs=rngs)
        self.pooler = linear_on(v, v.block.d_model, rngs=rngs) if config.pooler else None
        self.classifier = None if classes is None else linear_on(v, classes, rngs=rngs)

    def __call__(self, images: Float[Array, "b y x c"]) -> Float[Array, "b n d"]:
        """The final hidden states: the class token's, then the patches'."""
        return self.vision(images)

    def pool(self, hidden: Float[Array, "b n d"]) -> Float[Array, "b d"]:
        """tanh(h₀ W + b): the class token's state."""
        return jnp.tanh(wanted(self.pooler, "pooler")(hidden[:, 0]))

    def logits(self, hidden: Float[Array, "b n d"]) -> Float[Array, "b e"]:
        """Scores of the classes, from the class token's state, in float32."""
        return wanted(self.classifier, "classifier")(hidden[:, 0]).astype(jnp.float32)
