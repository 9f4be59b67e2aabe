"""LLaVA and LLaVA-NeXT: image patches among the tokens of a language model (Liu et al. 2023)."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int, Key

from gelu_jax.errors import Problem, check
from gelu_jax.nn import checks
from gelu_jax.nn.attention import Cache
from gelu_jax.nn.axes import Axes
from gelu_jax.nn.dropout import Rngs, Stochastic, split_key
from gelu_jax.nn.feed_forward import FeedForward, FeedForwardConfig, HiddenLayer
from gelu_jax.nn.linear import require_part
from gelu_jax.nn.parameters import cast, kernel
from gelu_jax.nn.tiles import Size, TiledImages, grid_of_tiles, num_packed, packed_tiles
from gelu_jax.nn.transformer import Transformer, TransformerConfig
from gelu_jax.nn.variants import Variant, variant_problems
from gelu_jax.nn.vision import VisionConfig, VisionTransformer

Images: TypeAlias = Float[Array, "n y x c"] | TiledImages


@dataclass(frozen=True)
class VisionLanguageConfig:
    """The two models and what joins them.

    Attributes:
      vision: the image encoder.
      language: the language model.
      image_token: the token that marks the position of one patch in the text.
      vision_layers: the patches are taken after that many layers of the image encoder.
      projector: variant of the feed-forward block from the image encoder's width to the language
        model's.
      projector_bias: whether that block has biases.
      class_token: whether the class token's state is taken along with the patches.
      resolutions: heights and widths that images of any resolution are fitted into and cut into
        tiles, each of the image encoder's size (LLaVA-NeXT); empty where images have that size.
      kind: "vision_language", which tells model configs apart in a config file.

    Raises:
      ConfigError: a field has a wrong value.
    """

    vision: VisionConfig
    language: TransformerConfig
    image_token: int
    vision_layers: int
    projector: Variant = "gelu"
    projector_bias: bool = True
    class_token: bool = False
    resolutions: tuple[Size, ...] = ()
    kind: Literal["vision_language"] = "vision_language"

    def __post_init__(self):
        checks.field_types(self)
        check(self._problems())

    def _problems(self) -> Iterator[Problem]:
        yield from variant_problems(self.projector)
        yield from checks.positive(vision_layers=self.vision_layers)
        most = self.vision.num_layers
        if self.vision_layers > most:
            reason = f"the image encoder has {most} layers; nearest: {most}"
            yield Problem("vision_layers", self.vision_layers, reason)
        tile = self.vision.image_size
        for i, size in enumerate(self.resolutions):
            if any(length < 1 or length % tile for length in size):
                reason = f"must be multiples of the tiles' size {tile}"
                yield Problem(f"resolutions[{i}]", size, reason)
        if self.resolutions and self.class_token:
            yield Problem("class_token", True, "has no place in a grid of tiles")

    @property
    def patches(self) -> int:
        """Number p of image tokens of one image, or of one tile."""
        return self.vision.num_patches + self.class_token

    @property
    def projector_block(self) -> FeedForwardConfig:
        """The config of the projector; its hidden layer has the language model's width."""
        language, width = self.language, self.language.block.d_model
        return FeedForwardConfig(
            d_model=self.vision.block.d_model,
            d_ff=width,
            d_out=width,
            variant=self.projector,
            use_bias=self.projector_bias,
            init_std=language.init_std,
            dtype=language.dtype,
            param_dtype=language.param_dtype,
        )


class Projector(FeedForward):
    """A feed-forward block whose branches are drawn before its output, unlike `FeedForward`'s.

    Args:
      config: the block's config.
      rngs: source of the initial values.
    """

    def __init__(self, config: FeedForwardConfig, *, rngs: nnx.Rngs):
        HiddenLayer.__init__(self, config, rngs=rngs)
        self._init_output(config, rngs)


class VisionLanguage(Stochastic):
    """The model as an NNX module.

    Each image needs as many image tokens in the text as `num_image_tokens` says, in order. Under
    `jax.jit` that is not checked. Where the config has resolutions, images are `TiledImages`.

    Parameters: ``vision``, ``projector``, ``language``; ``newline`` (d,), which ends each row of a
    tiled image's patches, or None.

    Args:
      config: the model's config.
      rngs: source of the initial values.
    """

    axes: ClassVar[Axes] = {"newline": "d"}

    def __init__(self, config: VisionLanguageConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.vision = VisionTransformer(config.vision, rngs=rngs)
        self.projector = Projector(config.projector_block, rngs=rngs)
        self.language = Transformer(config.language, rngs=rngs)
        self.newline = self._newline(rngs) if config.resolutions else None

    def _newline(self, rngs: nnx.Rngs) -> nnx.Param[Array]:
        language = self.config.language
        d, std, dtype = language.block.d_model, language.init_std, language.param_dtype
        return kernel(rngs, (d,), fan_in=d, std=std, dtype=dtype, axes=self.axes["newline"])

    def __call__(
        self,
        tokens: Int[Array, "b t"],
        deterministic: bool | None = None,
        *,
        images: Images | None = None,
        mask: Bool[Array, "b t"] | None = None,
        rngs: Rngs | None = None,
        dropout_key: Key[Array, ""] | None = None,
    ) -> Float[Array, "b t v"]:
        """Computes the logits of text with images in it.

        Args:
          tokens: (b, t), integers in [0, v), image tokens among them.
          deterministic: whether dropout is off; None for what `nnx.Module.train` and
            `nnx.Module.eval` set last, and on in a new module.
          images: (n, height, width, channels), or in tiles, in the order of their tokens; None for
            none.
          mask: (b, t), True at real tokens, False at padding; None for no padding.
          rngs: gives the dropout's key where `dropout_key` is None; its stream is "dropout".
          dropout_key: PRNG key of all dropout.
        Returns:
          Logits (b, t, v) in float32.
        Raises:
          ValueError: the number of image tokens does not fit the images (not under `jax.jit`); or
            dropout is on, and there is no key.
        """
        key = self.key_of_call(self._highest_dropout_rate, deterministic, rngs, dropout_key)
        off, (of_images, of_text) = key is None, split_key(key, 2)
        embeddings = self.embed(tokens, images, off, dropout_key=of_images)
        drop: dict[str, Any] = {"deterministic": off, "dropout_key": of_text}
        hidden, _ = self.language.apply_layers(embeddings, mask=mask, **drop)
        return self.language.logits(hidden)

    def decode(
        self,
        tokens: Int[Array, "b t"],
        cache: Cache,
        *,
        images: Images | None = None,
        mask: Bool[Array, "b t"] | None = None,
    ) -> tuple[Float[Array, "b t v"], Cache]:
        """Computes the logits of the next t tokens; dropout is off.

        Args:
          tokens: (b, t), integers in [0, v); image tokens in the prompt alone.
          cache: as `empty_cache` or this method made it.
          images: (n, height, width, channels), or in tiles, given with the prompt; None for none.
          mask: (b, t), True at real tokens, False at padding; None for no padding.
        Returns:
          Logits (b, t, v) in float32, and the cache with the t tokens added.
        Raises:
          ValueError: the number of image tokens does not fit the images (not under `jax.jit`).
        """
        embeddings = self.embed(tokens, images, True)
        hidden, cache = self.language.apply_layers(embeddings, cache, mask=mask, deterministic=True)
        return self.language.logits(hidden), cache

    def unstacked(self, cache: Cache) -> tuple["VisionLanguage", Cache]:
        """The model and its cache for a loop over tokens, as `Transformer.unstacked`.

        Args:
          cache: as `empty_cache` or `decode` made it.
        Returns:
          A model and a cache whose `decode` gives the same.
        """
        copy = jax.tree.map(lambda leaf: leaf, self)
        copy.language, cache = self.language.unstacked(cache)
        return copy, cache

    def empty_cache(self, batch_size: int, length: int) -> Cache:
        """An empty key/value cache of the language model.

        Args:
          batch_size: rows b.
          length: tokens that fit into a row, prompt and continuation together.
        Returns:
          A cache for `decode`.
        """
        return self.language.empty_cache(batch_size, length)

    @property
    def _highest_dropout_rate(self) -> float:
        blocks = self.config.language.block, self.config.vision.block
        return max(block.highest_dropout_rate for block in blocks)

    def embed(
        self,
        tokens: Int[Array, "b t"],
        images: Images | None = None,
        deterministic: bool | None = None,
        *,
        rngs: Rngs | None = None,
        dropout_key: Key[Array, ""] | None = None,
    ) -> Float[Array, "b t d"]:
        """Embeds text and images: each image token becomes a projected patch.

        Args:
          tokens: (b, t), integers in [0, v).
          images: (n, height, width, channels), or in tiles, in the order of their tokens; None for
            none.
          deterministic: whether dropout is off in the image encoder, as in `__call__`.
          rngs: gives the dropout's key where `dropout_key` is None; its stream is "dropout".
          dropout_key: PRNG key of all dropout.
        Returns:
          Embeddings (b, t, d).
        Raises:
          ValueError: the number of image tokens does not fit the images (not under `jax.jit`); or
            dropout is on, and there is no key.
        """
        embeddings = self.language.embed(tokens)
        if images is None:
            return embeddings
        self.check_images(tokens, images)
        is_patch = tokens == self.config.image_token
        if sum(self.num_image_tokens(images)) == 0:
            return embeddings
        drop: dict[str, Any] = {"rngs": rngs, "dropout_key": dropout_key}
        patches = self.embed_images(images, deterministic, **drop)
        index = (jnp.cumsum(is_patch) - 1).reshape(is_patch.shape)
        return jnp.where(is_patch[..., None], patches[index].astype(embeddings.dtype), embeddings)

    def embed_images(
        self,
        images: Images,
        deterministic: bool | None = None,
        *,
        rngs: Rngs | None = None,
        dropout_key: Key[Array, ""] | None = None,
    ) -> Float[Array, "s d"]:
        """Embeds images: what stands in the place of their tokens, one image after the other.

        Args:
          images: (n, height, width, channels), or in tiles.
          deterministic: whether dropout is off, as in `__call__`.
          rngs: gives the dropout's key where `dropout_key` is None; its stream is "dropout".
          dropout_key: PRNG key of all dropout.
        Returns:
          Embeddings (s, d).
        Raises:
          ValueError: images are in tiles, and the model has none, or the other way round; or
            dropout is on, and there is no key.
        """
        self._check_kind(images)
        drop: dict[str, Any] = {"rngs": rngs, "dropout_key": dropout_key}
        if not isinstance(images, TiledImages):
            return jax.lax.collapse(self.project(images, deterministic, **drop), 0, 2)
        grids = self._grids(images)
        counts = [1 + rows * columns for rows, columns in grids]
        tiles = [tiles[:count] for tiles, count in zip(images.tiles, counts, strict=True)]
        patches = self.project(jnp.concatenate(tiles), deterministic, **drop)
        newline = cast(require_part(self.newline, "newline"), self.config.language.dtype)
        parts = jnp.split(patches, np.cumsum(counts[:-1]))
        packed = zip(parts, images.sizes, grids, strict=True)
        return jnp.concatenate([packed_tiles(part, newline, *place) for part, *place in packed])

    def _grids(self, images: TiledImages) -> list[Size]:
        tile = self.config.vision.image_size
        return [grid_of_tiles(size, self.config.resolutions, tile) for size in images.sizes]

    def project(
        self,
        images: Float[Array, "n y x c"],
        deterministic: bool | None = None,
        *,
        rngs: Rngs | None = None,
        dropout_key: Key[Array, ""] | None = None,
    ) -> Float[Array, "n p d"]:
        """Encodes images and projects their patches to the language model's width.

        Args:
          images: (n, height, width, channels).
          deterministic: whether dropout is off, as in `__call__`.
          rngs: gives the dropout's key where `dropout_key` is None; its stream is "dropout".
          dropout_key: PRNG key of all dropout.
        Returns:
          Embeddings (n, p, d).
        Raises:
          ValueError: dropout is on, and there is no key.
        """
        c = self.config
        drop: dict[str, Any] = {"rngs": rngs, "dropout_key": dropout_key}
        patches = self.vision.hidden(images, deterministic, num_layers=c.vision_layers, **drop)
        return self.projector(patches if c.class_token else patches[:, 1:])

    def num_image_tokens(self, images: Images) -> list[int]:
        """How many image tokens each image needs in the text.

        Args:
          images: (n, height, width, channels), or in tiles.
        Returns:
          n numbers.
        """
        p = self.config.patches
        if not isinstance(images, TiledImages):
            return [p] * images.shape[0]
        places = zip(images.sizes, self._grids(images), strict=True)
        return [num_packed(p, *place) for place in places]

    def check_images(self, tokens: Int[Array, "b t"], images: Images) -> None:
        """Checks that the image tokens of a text fit its images; under `jax.jit`, their kind alone.

        Args:
          tokens: (b, t).
          images: (n, height, width, channels), or in tiles, in the order of their tokens.
        Raises:
          ValueError: their number does not fit, or they are in tiles and the model has none, or the
            other way round.
        """
        self._check_kind(images)
        if isinstance(tokens, Tracer):
            return
        found = int((np.asarray(tokens) == self.config.image_token).sum())
        numbers = self.num_image_tokens(images)
        if found != sum(numbers):
            needed = f"{len(numbers)} images need {sum(numbers)}"
            raise ValueError(f"tokens: {found} image tokens, but {needed}")

    def _check_kind(self, images: Images) -> None:
        tiled, wanted = isinstance(images, TiledImages), bool(self.config.resolutions)
        if tiled != wanted:
            raise ValueError(f"images: must {'' if wanted else 'not '}be TiledImages in this model")
