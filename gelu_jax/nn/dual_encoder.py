"""CLIP: a text encoder and an image encoder with a common output space (Radford et al. 2021)."""

from dataclasses import dataclass
from typing import Any, Literal

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key

from gelu_jax.errors import check
from gelu_jax.nn import checks
from gelu_jax.nn.dropout import Rngs, Stochastic, split_key
from gelu_jax.nn.linear import linear_head
from gelu_jax.nn.parameters import constant
from gelu_jax.nn.pooling import unit
from gelu_jax.nn.transformer import Transformer, TransformerConfig
from gelu_jax.nn.vision import VisionConfig, VisionTransformer


@dataclass(frozen=True)
class DualEncoderConfig:
    """The two encoders and what joins them.

    Attributes:
      text: the text encoder.
      vision: the image encoder.
      d_common: width of the common space.
      end_token: the token that ends a text; None for the largest token of each text, as in CLIP's
        first vocabulary.
      kind: "dual_encoder", which tells model configs apart in a config file.

    Raises:
      ConfigError: a field has a wrong value.
    """

    text: TransformerConfig
    vision: VisionConfig
    d_common: int
    end_token: int | None = None
    kind: Literal["dual_encoder"] = "dual_encoder"

    def __post_init__(self):
        checks.field_types(self)
        check(checks.positive(d_common=self.d_common))


class DualEncoder(Stochastic):
    """The pair as an NNX module.

    Args:
      config: the model's config.
      rngs: source of the initial values.
    """

    def __init__(self, config: DualEncoderConfig, *, rngs: nnx.Rngs):
        c = self.config = config
        self.text = Transformer(c.text, rngs=rngs)
        self.vision = VisionTransformer(c.vision, rngs=rngs)
        self.text_projection = linear_head(c.text, c.d_common, use_bias=False, rngs=rngs)
        self.image_projection = linear_head(c.vision, c.d_common, use_bias=False, rngs=rngs)
        self.log_scale = constant(2.6592, (), c.text.param_dtype)  # log(1/0.07), section 2.5

    def __call__(
        self,
        images: Float[Array, "b y x c"],
        tokens: Int[Array, "n t"],
        deterministic: bool | None = None,
        *,
        mask: Bool[Array, "n t"] | None = None,
        rngs: Rngs | None = None,
        dropout_key: Key[Array, ""] | None = None,
    ) -> Float[Array, "b n"]:
        """Scores every image against every text: exp(s)·⟨image, text⟩, for a softmax over either.

        Args:
          images: (b, height, width, channels).
          tokens: (n, t), integers below the vocabulary's size.
          deterministic: whether dropout is off; None for what `nnx.Module.train` and
            `nnx.Module.eval` set last, and on in a new module.
          mask: (n, t), True at real tokens, False at padding; None for no padding.
          rngs: gives the dropout's key where `dropout_key` is None; its stream is "dropout".
          dropout_key: PRNG key of all dropout.
        Returns:
          Scores (b, n) in float32.
        Raises:
          ValueError: dropout is on, and there is no key.
        """
        blocks = self.config.text.block, self.config.vision.block
        rate = max(block.highest_dropout_rate for block in blocks)
        key = self.key_of_call(rate, deterministic, rngs, dropout_key)
        off, (of_images, of_texts) = key is None, split_key(key, 2)
        image = self.embed_images(images, off, dropout_key=of_images)
        text = self.embed_texts(tokens, off, mask=mask, dropout_key=of_texts)
        scale = jnp.exp(self.log_scale[...].astype(jnp.float32))
        return scale * image @ text.T

    def embed_texts(
        self,
        tokens: Int[Array, "b t"],
        deterministic: bool | None = None,
        *,
        mask: Bool[Array, "b t"] | None = None,
        rngs: Rngs | None = None,
        dropout_key: Key[Array, ""] | None = None,
    ) -> Float[Array, "b d"]:
        """Embeds texts: the end token's state, projected and normed to length 1.

        Args:
          tokens: (b, t), integers below the vocabulary's size.
          deterministic: whether dropout is off, as in `__call__`.
          mask: (b, t), True at real tokens, False at padding; None for no padding.
          rngs: gives the dropout's key where `dropout_key` is None; its stream is "dropout".
          dropout_key: PRNG key of all dropout.
        Returns:
          Vectors (b, d_common) in float32.
        Raises:
          ValueError: dropout is on, and there is no key.
        """
        drop: dict[str, Any] = {"rngs": rngs, "dropout_key": dropout_key}
        hidden = self.text.hidden(tokens, mask=mask, deterministic=deterministic, **drop)
        end = self.config.end_token
        last = jnp.argmax(tokens if end is None else tokens == end, axis=1)
        state = jnp.take_along_axis(hidden, last[:, None, None], axis=1)[:, 0]
        return unit(self.text_projection(state))

    def embed_images(
        self,
        images: Float[Array, "b y x c"],
        deterministic: bool | None = None,
        *,
        rngs: Rngs | None = None,
        dropout_key: Key[Array, ""] | None = None,
    ) -> Float[Array, "b d"]:
        """Embeds images: the class token's state, projected and normed to length 1.

        Args:
          images: (b, height, width, channels).
          deterministic: whether dropout is off, as in `__call__`.
          rngs: gives the dropout's key where `dropout_key` is None; its stream is "dropout".
          dropout_key: PRNG key of all dropout.
        Returns:
          Vectors (b, d_common) in float32.
        Raises:
          ValueError: dropout is on, and there is no key.
        """
        hidden = self.vision(images, deterministic, rngs=rngs, dropout_key=dropout_key)
        return unit(self.image_projection(hidden[:, 0]))
