"""SigLIP: CLIP whose pairs are scored one by one, with pooled images (Zhai et al. 2023)."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from gelu_jax.errors import check
from gelu_jax.nn import checks
from gelu_jax.nn.attention import Attention
from gelu_jax.nn.axes import Axes
from gelu_jax.nn.dropout import Rngs, Stochastic, split_key
from gelu_jax.nn.experts import feed_forward_part
from gelu_jax.nn.linear import linear_head, require_part
from gelu_jax.nn.norm import Norm
from gelu_jax.nn.parameters import cast, constant, kernel
from gelu_jax.nn.pooling import unit
from gelu_jax.nn.transformer import Transformer, TransformerConfig
from gelu_jax.nn.vision import VisionConfig, VisionTransformer


class AttentionPool(nnx.Module):
    """One vector for each image, which a learned query attends for (Zhai et al. 2022, section 3.3).

    Parameters: ``query`` (d,); ``attention``, ``norm`` and ``feed_forward``, as in a block.

    Args:
      config: of the vision transformer, whose block's parts these are like.
      rngs: source of the initial values.
    """

    axes: ClassVar[Axes] = {"query": "d"}

    def __init__(self, config: VisionConfig, *, rngs: nnx.Rngs):
        self.config = config
        block, dtype = config.block, config.param_dtype
        d, std = block.d_model, config.init_std
        self.query = kernel(rngs, (d,), fan_in=d, std=std, dtype=dtype, axes="d")
        self.attention = Attention(block.attention, rngs=rngs)
        self.norm = Norm(block.norm, rngs=rngs)
        self.feed_forward = feed_forward_part(block.feed_forward, rngs=rngs)

    def __call__(self, hidden: Float[Array, "b n d"]) -> Float[Array, "b d"]:
        """Pools states: x + ffn(norm x), of x = attention(query; hidden).

        Args:
          hidden: final hidden states, (b, n, d).
        Returns:
          An array (b, d).
        """
        query = cast(self.query, self.config.dtype)
        query = jnp.broadcast_to(query, (hidden.shape[0], 1, query.shape[0]))
        x = self.attention.cross_attend(query, self.attention.project_kv(hidden))[:, 0]
        return x + self.feed_forward(self.norm(x), True)


@dataclass(frozen=True)
class ImageTowerConfig:
    """A vision transformer, and whether its states are pooled.

    Attributes:
      vision: the vision transformer itself.
      pooled: whether there is an `AttentionPool`.
      kind: "image_tower", which tells model configs apart in a config file.

    Raises:
      ConfigError: a field has a wrong value.
    """

    vision: VisionConfig
    pooled: bool = True
    kind: Literal["image_tower"] = "image_tower"

    def __post_init__(self):
        checks.field_types(self)


class ImageTower(nnx.Module):
    """The image tower as an NNX module.

    Args:
      config: the tower's config.
      rngs: source of the initial values.
    """

    def __init__(self, config: ImageTowerConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.vision = VisionTransformer(config.vision, rngs=rngs)
        self.head = AttentionPool(config.vision, rngs=rngs) if config.pooled else None

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
          Hidden states (b, n, d).
        Raises:
          ValueError: dropout is on, and there is no key.
        """
        return self.vision(images, deterministic, rngs=rngs, dropout_key=dropout_key)

    def embed(
        self,
        images: Float[Array, "b y x c"],
        deterministic: bool | None = None,
        *,
        rngs: Rngs | None = None,
        dropout_key: Key[Array, ""] | None = None,
    ) -> Float[Array, "b d"]:
        """Embeds images, not scaled to length 1; the pool itself has no dropout.

        Args:
          images: (b, height, width, channels).
          deterministic: whether dropout is off, as in `__call__`.
          rngs: gives the dropout's key where `dropout_key` is None; its stream is "dropout".
          dropout_key: PRNG key of all dropout.
        Returns:
          Vectors (b, d).
        Raises:
          ValueError: the tower has no pool; or dropout is on, and there is no key.
        """
        hidden = self(images, deterministic, rngs=rngs, dropout_key=dropout_key)
        return require_part(self.head, "head")(hidden)


@dataclass(frozen=True)
class TextTowerConfig:
    """A text encoder and the width that its last token's state is mapped to.

    Attributes:
      text: the encoder; its attention is not causal.
      d_out: width of the vectors.
      kind: "text_tower", which tells model configs apart in a config file.

    Raises:
      ConfigError: a field has a wrong value.
    """

    text: TransformerConfig
    d_out: int
    kind: Literal["text_tower"] = "text_tower"

    def __post_init__(self):
        checks.field_types(self)
        check(checks.positive(d_out=self.d_out))


class TextTower(nnx.Module):
    """The text tower as an NNX module; all texts are of one length, and see their padding.

    Args:
      config: the tower's config.
      rngs: source of the initial values.
    """

    def __init__(self, config: TextTowerConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.text = Transformer(config.text, rngs=rngs)
        self.head = linear_head(config.text, config.d_out, rngs=rngs)

    def __call__(
        self,
        tokens: Int[Array, "b t"],
        deterministic: bool | None = None,
        *,
        rngs: Rngs | None = None,
        dropout_key: Key[Array, ""] | None = None,
    ) -> Float[Array, "b t d"]:
        """Computes the final hidden states.

        Args:
          tokens: (b, t), integers below the vocabulary's size.
          deterministic: whether dropout is off; None for what `nnx.Module.train` and
            `nnx.Module.eval` set last, and on in a new module.
          rngs: gives the dropout's key where `dropout_key` is None; its stream is "dropout".
          dropout_key: PRNG key of all dropout.
        Returns:
          Hidden states (b, t, d).
        Raises:
          ValueError: dropout is on, and there is no key.
        """
        drop: dict[str, Any] = {"rngs": rngs, "dropout_key": dropout_key}
        return self.text.hidden(tokens, deterministic=deterministic, **drop)

    def embed(
        self,
        tokens: Int[Array, "b t"],
        deterministic: bool | None = None,
        *,
        rngs: Rngs | None = None,
        dropout_key: Key[Array, ""] | None = None,
    ) -> Float[Array, "b e"]:
        """Embeds texts by the state of the last place, not scaled to length 1.

        Args:
          tokens: (b, t), integers below the vocabulary's size.
          deterministic: whether dropout is off, as in `__call__`.
          rngs: gives the dropout's key where `dropout_key` is None; its stream is "dropout".
          dropout_key: PRNG key of all dropout.
        Returns:
          Vectors (b, e).
        Raises:
          ValueError: dropout is on, and there is no key.
        """
        return self.head(self(tokens, deterministic, rngs=rngs, dropout_key=dropout_key)[:, -1])


@dataclass(frozen=True)
class SigmoidDualEncoderConfig:
    """The two towers.

    Attributes:
      text: the text tower.
      image: the image tower, which pools.
      kind: "sigmoid_dual_encoder", which tells model configs apart in a config file.

    Raises:
      ConfigError: the towers' vectors have different widths.
    """

    text: TextTowerConfig
    image: ImageTowerConfig
    kind: Literal["sigmoid_dual_encoder"] = "sigmoid_dual_encoder"

    def __post_init__(self):
        checks.field_types(self)
        width = self.image.vision.block.d_model
        check(checks.equal(width, "the image tower's width", {"text.d_out": self.text.d_out}))


class SigmoidDualEncoder(Stochastic):
    """The pair as an NNX module.

    Args:
      config: the model's config.
      rngs: source of the initial values.
    """

    def __init__(self, config: SigmoidDualEncoderConfig, *, rngs: nnx.Rngs):
        self.config = config
        dtype = config.text.text.param_dtype
        self.text = TextTower(config.text, rngs=rngs)
        self.image = ImageTower(config.image, rngs=rngs)
        self.log_scale = constant(2.3026, (), dtype)  # log 10, section 3.2
        self.bias = constant(-10.0, (), dtype)

    def __call__(
        self,
        images: Float[Array, "b y x c"],
        tokens: Int[Array, "n t"],
        deterministic: bool | None = None,
        *,
        rngs: Rngs | None = None,
        dropout_key: Key[Array, ""] | None = None,
    ) -> Float[Array, "b n"]:
        """Scores every image against every text: exp(s)·⟨image, text⟩ + b, for a sigmoid each.

        Args:
          images: (b, height, width, channels).
          tokens: (n, t), integers below the vocabulary's size.
          deterministic: whether dropout is off; None for what `nnx.Module.train` and
            `nnx.Module.eval` set last, and on in a new module.
          rngs: gives the dropout's key where `dropout_key` is None; its stream is "dropout".
          dropout_key: PRNG key of all dropout.
        Returns:
          Scores (b, n) in float32.
        Raises:
          ValueError: dropout is on, and there is no key.
        """
        blocks = self.config.text.text.block, self.config.image.vision.block
        rate = max(block.highest_dropout_rate for block in blocks)
        key = self.key_of_call(rate, deterministic, rngs, dropout_key)
        off, (of_images, of_texts) = key is None, split_key(key, 2)
        image = self.embed_images(images, off, dropout_key=of_images)
        text = self.embed_texts(tokens, off, dropout_key=of_texts)
        scale, bias = (p[...].astype(jnp.float32) for p in (self.log_scale, self.bias))
        return jnp.exp(scale) * image @ text.T + bias

    def embed_texts(
        self,
        tokens: Int[Array, "b t"],
        deterministic: bool | None = None,
        *,
        rngs: Rngs | None = None,
        dropout_key: Key[Array, ""] | None = None,
    ) -> Float[Array, "b d"]:
        """Embeds texts, scaled to length 1.

        Args:
          tokens: (b, t), integers below the vocabulary's size.
          deterministic: whether dropout is off, as in `__call__`.
          rngs: gives the dropout's key where `dropout_key` is None; its stream is "dropout".
          dropout_key: PRNG key of all dropout.
        Returns:
          Vectors (b, d) in float32.
        Raises:
          ValueError: dropout is on, and there is no key.
        """
        return unit(self.text.embed(tokens, deterministic, rngs=rngs, dropout_key=dropout_key))

    def embed_images(
        self,
        images: Float[Array, "b y x c"],
        deterministic: bool | None = None,
        *,
        rngs: Rngs | None = None,
        dropout_key: Key[Array, ""] | None = None,
    ) -> Float[Array, "b d"]:
        """Embeds images, scaled to length 1.

        Args:
          images: (b, height, width, channels).
          deterministic: whether dropout is off, as in `__call__`.
          rngs: gives the dropout's key where `dropout_key` is None; its stream is "dropout".
          dropout_key: PRNG key of all dropout.
        Returns:
          Vectors (b, d) in float32.
        Raises:
          ValueError: dropout is on, and there is no key.
        """
        return unit(self.image.embed(images, deterministic, rngs=rngs, dropout_key=dropout_key))
