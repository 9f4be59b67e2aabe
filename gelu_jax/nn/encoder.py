"""BERT: a token encoder with its heads, of pre-training and of tasks (Devlin et al. 2019)."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key

from gelu_jax.activations import activation
from gelu_jax.errors import Problem, check
from gelu_jax.nn import checks
from gelu_jax.nn.axes import Axes
from gelu_jax.nn.dropout import Rngs
from gelu_jax.nn.linear import linear_head, require_part
from gelu_jax.nn.norm import Norm
from gelu_jax.nn.parameters import add_bias, cast, constant
from gelu_jax.nn.transformer import Transformer, TransformerConfig


@dataclass(frozen=True)
class EncoderConfig:
    """A transformer, and which of BERT's heads it has (Devlin et al. 2019, sections 3 and 4).

    Attributes:
      transformer: the encoder itself; its attention is not causal.
      pooler: whether there is a pooler, an activation of a linear map of the first token's state.
      pooler_activation: its activation.
      masked_head: activation of the masked-token head; None for no such head.
      next_sentence_head: whether there is a head for "does sentence B follow sentence A?".
      num_classes: classes of texts, by the pooled state; None for no such head.
      num_token_classes: classes of tokens; None for no such head.
      span_head: whether there is a head for the first and the last token of an answer.
      kind: "encoder", which tells model configs apart in a config file.

    Raises:
      ConfigError: a number is not above 0, or texts are to be classified without a pooler.
    """

    transformer: TransformerConfig
    pooler: bool = False
    masked_head: str | None = None
    next_sentence_head: bool = False
    pooler_activation: str = "tanh"
    num_classes: int | None = None
    num_token_classes: int | None = None
    span_head: bool = False
    kind: Literal["encoder"] = "encoder"

    def __post_init__(self):
        checks.field_types(self)
        check(self._problems())

    def _problems(self) -> Iterator[Problem]:
        yield from checks.positive(
            num_classes=self.num_classes, num_token_classes=self.num_token_classes
        )
        if self.num_classes is not None and not self.pooler:
            yield Problem("num_classes", self.num_classes, "needs pooler = True")


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
        classes, tokens = config.num_classes, config.num_token_classes
        self.classifier = None if classes is None else linear_head(t, classes, rngs=rngs)
        self.token_classifier = None if tokens is None else linear_head(t, tokens, rngs=rngs)
        self.span_head = linear_head(t, 2, rngs=rngs) if config.span_head else None

    def __call__(
        self,
        tokens: Int[Array, "b t"],
        deterministic: bool | None = None,
        *,
        mask: Bool[Array, "b t"] | None = None,
        positions: Int[Array, "#b t"] | None = None,
        token_types: Int[Array, "b t"] | None = None,
        rngs: Rngs | None = None,
        dropout_key: Key[Array, ""] | None = None,
    ) -> Float[Array, "b t d"]:
        """Computes the final hidden states.

        Args:
          tokens: (b, t), integers below the vocabulary's size.
          deterministic: whether dropout is off, as in `Transformer.__call__`.
          mask: (b, t), True at real tokens, False at padding; None for no padding.
          positions: of the tokens, as in `Transformer.__call__`.
          token_types: (b, t), segment types; None for type 0 throughout.
          rngs: gives the dropout's key where `dropout_key` is None; its stream is "dropout".
          dropout_key: PRNG key of all dropout.
        Returns:
          Hidden states (b, t, d).
        Raises:
          ValueError: dropout is on, and there is no key.
        """
        inputs: dict[str, Any] = {"mask": mask, "token_types": token_types}
        inputs["positions"] = positions
        dropout: dict[str, Any] = {
            "deterministic": deterministic,
            "rngs": rngs,
            "dropout_key": dropout_key,
        }
        return self.transformer.hidden(tokens, **inputs, **dropout)

    def pool(self, hidden: Float[Array, "b t d"]) -> Float[Array, "b d"]:
        """Pools the first token's state for classifiers: φ(h₀ W + b).

        Args:
          hidden: final hidden states, (b, t, d).
        Returns:
          An array (b, d).
        Raises:
          ValueError: the model has no pooler.
        """
        phi = activation(self.config.pooler_activation)
        return phi(require_part(self.pooler, "pooler")(hidden[:, 0]))

    def class_logits(self, hidden: Float[Array, "b t d"]) -> Float[Array, "b c"]:
        """Classifies texts, or pairs of them, by the pooled state.

        Args:
          hidden: final hidden states, (b, t, d).
        Returns:
          Logits (b, classes) in float32.
        Raises:
          ValueError: the model has no such head.
        """
        head = require_part(self.classifier, "classifier")
        return head(self.pool(hidden)).astype(jnp.float32)

    def token_logits(self, hidden: Float[Array, "b t d"]) -> Float[Array, "b t c"]:
        """Classifies every token.

        Args:
          hidden: final hidden states, (b, t, d).
        Returns:
          Logits (b, t, classes) in float32.
        Raises:
          ValueError: the model has no such head.
        """
        return require_part(self.token_classifier, "token_classifier")(hidden).astype(jnp.float32)

    def span_logits(self, hidden: Float[Array, "b t d"]) -> Float[Array, "b t 2"]:
        """Logits of a token to be the first of an answer, and to be the last.

        Args:
          hidden: final hidden states, (b, t, d).
        Returns:
          Logits (b, t, 2) in float32.
        Raises:
          ValueError: the model has no such head.
        """
        return require_part(self.span_head, "span_head")(hidden).astype(jnp.float32)

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
