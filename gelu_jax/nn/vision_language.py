"""LLaVA: an image tower whose patches stand among a language model's tokens (Liu et al. 2023)."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import jax.numpy as jnp
from flax import nnx
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int

from gelu_jax.errors import Problem, check
from gelu_jax.nn import checks
from gelu_jax.nn.attention import Cache
from gelu_jax.nn.feed_forward import feed_forward
from gelu_jax.nn.parameters import cast, constant, kernel
from gelu_jax.nn.transformer import Transformer, TransformerConfig
from gelu_jax.nn.variants import Variant, branches, variant_problems
from gelu_jax.nn.vision import VisionConfig, VisionTransformer


@dataclass(frozen=True)
class VisionLanguageConfig:
    """The two models and what joins them.

    ``projector`` is the variant of the feed-forward block from the image tower's width to the
    language model's. ``image_token`` holds the place of one patch in the text. ``vision_layers``:
    the patches are taken after so many layers of the tower. ``class_token``: taken as well?
    """

    vision: VisionConfig
    language: TransformerConfig
    image_token: int
    vision_layers: int
    projector: Variant = "gelu"
    projector_bias: bool = True
    class_token: bool = False
    kind: Literal["vision_language"] = "vision_language"

    def __post_init__(self):
        check(self._problems())

    def _problems(self) -> Iterator[Problem]:
        yield from variant_problems(self.projector)
        yield from checks.positive(vision_layers=self.vision_layers)
        most = self.vision.num_layers
        if self.vision_layers > most:
            yield Problem("vision_layers", self.vision_layers, f"the tower has {most} layers")

    @property
    def patches(self) -> int:
        """Image tokens of one image."""
        return self.vision.num_patches + self.class_token


class Projector(nnx.Module):
    """A feed-forward block between two widths; its hidden layer has the second."""

    def __init__(self, config: VisionLanguageConfig, *, rngs: nnx.Rngs):
        self.config = config
        d, e = config.vision.block.d_model, config.language.block.d_model
        std, dtype = config.language.init_std, config.language.param_dtype
        phis = branches(config.projector)
        self.w_in = nnx.List(kernel(rngs, (d, e), fan_in=d, std=std, dtype=dtype) for _ in phis)
        self.w_out = kernel(rngs, (e, e), fan_in=e, std=std, dtype=dtype)
        bias = config.projector_bias
        self.b_in = nnx.List(constant(0.0, (e,), dtype) for _ in phis) if bias else None
        self.b_out = constant(0.0, (e,), dtype) if bias else None

    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n e"]:
        dtype = self.config.language.dtype
        return feed_forward(
            x.astype(dtype),
            [cast(w, dtype) for w in self.w_in],
            cast(self.w_out, dtype),
            variant=self.config.projector,
            b_in=None if self.b_in is None else [cast(b, dtype) for b in self.b_in],
            b_out=None if self.b_out is None else cast(self.b_out, dtype),
        )


class VisionLanguage(nnx.Module):
    """The model as an NNX module; calling it gives logits in float32.

    Each image needs ``config.patches`` image tokens in the text, in order. Without `jax.jit`
    another number raises ValueError; under it the number cannot be seen, and the caller keeps to
    it.
    """

    def __init__(self, config: VisionLanguageConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.vision = VisionTransformer(config.vision, rngs=rngs)
        self.projector = Projector(config, rngs=rngs)
        self.language = Transformer(config.language, rngs=rngs)

    def __call__(
        self,
        tokens: Int[Array, "b t"],
        *,
        images: Float[Array, "n y x c"] | None = None,
        mask: Bool[Array, "b t"] | None = None,
    ) -> Float[Array, "b t v"]:
        """Logits of text with images in it; ``mask`` is True at real tokens."""
        hidden, _ = self.language.run(self.embed(tokens, images), mask=mask)
        return self.language.logits(hidden)

    def decode(
        self,
        tokens: Int[Array, "b t"],
        cache: Cache,
        *,
        images: Float[Array, "n y x c"] | None = None,
        mask: Bool[Array, "b t"] | None = None,
    ) -> tuple[Float[Array, "b t v"], Cache]:
        """Logits of the next t tokens, and the cache with them added; images with the prompt."""
        hidden, cache = self.language.run(self.embed(tokens, images), cache, mask=mask)
        return self.language.logits(hidden), cache

    def empty_cache(self, batch_size: int, length: int) -> Cache:
        """The language model's key/value cache."""
        return self.language.empty_cache(batch_size, length)

    def embed(
        self, tokens: Int[Array, "b t"], images: Float[Array, "n y x c"] | None = None
    ) -> Float[Array, "b t d"]:
        """The tokens' rows, and the images' projected patches where the image tokens stand."""
        rows = self.language.embed(tokens)
        if images is None:
            return rows
        here = tokens == self.config.image_token
        self._check_patches(here, images.shape[0])
        patches = self.project(images).reshape(-1, rows.shape[-1])
        number = (jnp.cumsum(here) - 1).reshape(here.shape)
        return jnp.where(here[..., None], patches[number].astype(rows.dtype), rows)

    def project(self, images: Float[Array, "n y x c"]) -> Float[Array, "n p d"]:
        """The patches of each image as rows of the language model."""
        c = self.config
        patches = self.vision.hidden(images, num_layers=c.vision_layers)
        return self.projector(patches if c.class_token else patches[:, 1:])

    def _check_patches(self, here: Any, images: int) -> None:
        if isinstance(here, Tracer):
            return
        found, wanted = int(here.sum()), images * self.config.patches
        if found != wanted:
            raise ValueError(
                f"tokens: {found} image tokens, where {images} images of "
                f"{self.config.patches} patches want {wanted}"
            )
