"""BERT: a token encoder with the heads of its pre-training (Devlin et al. 2019)."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key

from gelu_jax.activations import activation
from gelu_jax.nn import checks
from gelu_jax.nn.axes import Axes
from gelu_jax.nn.dropout import Rngs
from gelu_jax.nn.linear import linear_head, require_part
from gelu_jax.nn.norm import Norm
from gelu_jax.nn.parameters import add_bias, cast, constant
from gelu_jax.nn.transformer import Transformer, TransformerConfig


@dataclass(frozen=True)
class EncoderConfig:
    """A transformer, and which of BERT's heads it has (Devlin et al. 2019, section 3.1).

    Attributes:
      transformer: the encoder itself; its attention is not causal.
      pooler: whether there is a pooler, tanh of a linear map of the first token's state.
      masked_head: activation of the masked-token head; None for no such head.
      next_sentence_head: whether there is a head for "does sentence B follow sentence A?".
      kind: "encoder", which tells model configs apart in a config file.
    """

    transformer: TransformerConfig
    pooler: bool = False
    masked_head: str | None = None
    next_sentence_head: bool = False
    kind: Literal["encoder"] = "encoder"

    def __post_init__(self):
        checks.field_types(self)


class MaskedHead(nnx.Module):
    """The masked-token head up to its logits, norm(φ(h W + b)), and the logits' bias.

    Args:
      config: the encoder's config.
      rngs: source of the initial values.
    """

    axes: ClassVar[Axes] = {"bias": "v"}

    def __init__(self, config: EncoderConfig, *, rngs: nnx.Rngs):
        self.config = config
        t = config.transformer
        self.dense = linear_head(t, t.block.d_model, rngs=rngs)
        self.norm = Norm(t.block.norm, rngs=rngs)
        self.bias = constant(0.0, (t.vocab_size,), t.param_dtype, self.axes["bias"])

    def __call__(self, hidden: Float[Array, "b t d"]) -> Float[Array, "b t d"]:
        """Computes norm(φ(h W + b)).

        Args:
          hidden: final hidden states, (b, t, d).
        Returns:
          An array (b, t, d).
        """
        return self.norm(activation(self.config.masked_head or "identity")(self.dense(hidden)))


class Encoder(nnx.Module):
    """The encoder as an NNX module.

    Args:
      config: the encoder's config.
      rngs: source of the initial values.
    """

    def __init__(self, config: EncoderConfig, *, rngs: nnx.Rngs):
        self.config = config
        t = config.transformer
        self.transformer = Transformer(t, rngs=rngs)
        self.pooler = linear_head(t, t.block.d_model, rngs=rngs) if config.pooler else None
        next_sentence = config.next_sentence_head
        self.next_sentence_head = linear_head(t, 2, rngs=rngs) if next_sentence else None
        self.masked_head = MaskedHead(config, rngs=rngs) if config.masked_head else None

    def __call__(
        self,
        tokens: Int[Array, "b t"],
        deterministic: bool | None = None,
        *,
        mask: Bool[Array, "b t"] | None = None,
        token_types: Int[Array, "b t"] | None = None,
        rngs: Rngs | None = None,
        dropout_key: Key[Array, ""] | None = None,
    ) -> Float[Array, "b t d"]:
        """Computes the final hidden states.

        Args:
          tokens: (b, t), integers below the vocabulary's size.
          deterministic: whether dropout is off, as in `Transformer.__call__`.
          mask: (b, t), True at real tokens, False at padding; None for no padding.
          token_types: (b, t), segment types; None for type 0 throughout.
          rngs: gives the dropout's key where `dropout_key` is None; its stream is "dropout".
          dropout_key: PRNG key of all dropout.
        Returns:
          Hidden states (b, t, d).
        Raises:
          ValueError: dropout is on, and there is no key.
        """
        inputs = {"mask": mask, "token_types": token_types}
        dropout = {"deterministic": deterministic, "rngs": rngs, "dropout_key": dropout_key}
        return self.transformer.hidden(tokens, **inputs, **dropout)

    def pool(self, hidden: Float[Array, "b t d"]) -> Float[Array, "b d"]:
        """Pools the first token's state for classifiers: tanh(h₀ W + b).

        Args:
          hidden: final hidden states, (b, t, d).
        Returns:
          An array (b, d).
        Raises:
          ValueError: the model has no pooler.
        """
        return jnp.tanh(require_part(self.pooler, "pooler")(hidden[:, 0]))

    def next_sentence_logits(self, hidden: Float[Array, "b t d"]) -> Float[Array, "b 2"]:
        """Logits of "B follows A" and "B is random".

        Args:
          hidden: final hidden states, (b, t, d).
        Returns:
          Logits (b, 2).
        Raises:
          ValueError: the model has no such head, or no pooler.
        """
        return require_part(self.next_sentence_head, "next_sentence_head")(self.pool(hidden))

    def masked_logits(self, hidden: Float[Array, "b t d"]) -> Float[Array, "b t v"]:
        """Logits of the masked tokens, norm(φ(h W + b)) Eᵀ + c, with E the tied embedding.

        Args:
          hidden: final hidden states, (b, t, d).
        Returns:
          Logits (b, t, v) in float32.
        Raises:
          ValueError: the model has no such head.
        """
        head = require_part(self.masked_head, "masked_head")
        return add_bias(self.transformer.logits(head(hidden)), cast(head.bias, jnp.float32))
