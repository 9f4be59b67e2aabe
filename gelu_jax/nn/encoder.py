"""BERT: a token encoder with its heads, of pre-training and of tasks (Devlin et al. 2019)."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
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
from gelu_jax.nn.pooling import mean_pool
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
      replaced_head: activation of the head that tells replaced tokens (ELECTRA); None for none.
      pooling: what the pooler is applied to: "cls" the first token's state, "mean" the mean.
      pooler_norm: whether there is a norm after the pooler's activation (ModernBERT).
      head_bias: whether the linear maps of the pooler and of the masked-token head have a bias.
      token_pooler: whether the pooler is applied to every token's state before it is classified.
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
    replaced_head: str | None = None
    pooling: Literal["cls", "mean"] = "cls"
    pooler_norm: bool = False
    head_bias: bool = True
    token_pooler: bool = False
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
        yield from checks.one_of(("cls", "mean"), pooling=self.pooling)


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
        width = t.embedding_width
        self.dense = linear_head(t, width, use_bias=config.head_bias, rngs=rngs)
        self.norm = Norm(replace(t.block.norm, d_model=width), rngs=rngs)
        self.bias = constant(0.0, (t.vocab_size,), t.param_dtype, self.axes["bias"])

    def __call__(self, hidden: Float[Array, "b t d"]) -> Float[Array, "b t e"]:
        """Computes norm(φ(h W + b)).

        Args:
          hidden: final hidden states, (b, t, d).
        Returns:
          An array (b, t, e), of the width of the embedding.
        """
        return self.norm(activation(self.config.masked_head or "identity")(self.dense(hidden)))


class ReplacedHead(nnx.Module):
    """The head for "was this token replaced?", φ(h W + b) w + c (Clark et al. 2020, section 2).

    Args:
      config: the encoder's config.
      rngs: source of the initial values.
    """

    def __init__(self, config: EncoderConfig, *, rngs: nnx.Rngs):
        self.config = config
        t = config.transformer
        self.dense = linear_head(t, t.block.d_model, rngs=rngs)
        self.out = linear_head(t, 1, rngs=rngs)

    def __call__(self, hidden: Float[Array, "b t d"]) -> Float[Array, "b t"]:
        """Computes the logits.

        Args:
          hidden: final hidden states, (b, t, d).
        Returns:
          Logits (b, t) in float32.
        """
        phi = activation(self.config.replaced_head or "identity")
        return self.out(phi(self.dense(hidden)))[..., 0].astype(jnp.float32)


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
        dense = partial(linear_head, t, t.block.d_model, use_bias=config.head_bias, rngs=rngs)
        self.pooler = dense() if config.pooler else None
        next_sentence = config.next_sentence_head
        self.next_sentence_head = linear_head(t, 2, rngs=rngs) if next_sentence else None
        self.masked_head = MaskedHead(config, rngs=rngs) if config.masked_head else None
        classes, tokens = config.num_classes, config.num_token_classes
        self.classifier = None if classes is None else linear_head(t, classes, rngs=rngs)
        self.token_classifier = None if tokens is None else linear_head(t, tokens, rngs=rngs)
        self.span_head = linear_head(t, 2, rngs=rngs) if config.span_head else None
        self.pooler_norm = Norm(t.block.norm, rngs=rngs) if config.pooler_norm else None
        replaced = config.replaced_head
        self.replaced_head = None if replaced is None else ReplacedHead(config, rngs=rngs)

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

    def pool(
        self, hidden: Float[Array, "b t d"], *, mask: Bool[Array, "b t"] | None = None
    ) -> Float[Array, "b d"]:
        """Pools states for classifiers: φ(h₀ W + b), of the first token's or of the mean state.

        Args:
          hidden: final hidden states, (b, t, d).
          mask: (b, t), True at real tokens, which the mean is taken over; None for all.
        Returns:
          An array (b, d).
        Raises:
          ValueError: the model has no pooler.
        """
        if self.config.pooling == "cls":
            return self._pooler(hidden[:, 0])
        mask = jnp.ones(hidden.shape[:2], bool) if mask is None else mask
        return self._pooler(mean_pool(hidden, mask).astype(hidden.dtype))

    def _pooler(self, x: Float[Array, "... d"]) -> Float[Array, "... d"]:
        y = activation(self.config.pooler_activation)(require_part(self.pooler, "pooler")(x))
        return y if self.pooler_norm is None else self.pooler_norm(y)

    def _of_tokens(self, hidden: Float[Array, "b t d"]) -> Float[Array, "b t d"]:
        return self._pooler(hidden) if self.config.token_pooler else hidden

    def class_logits(
        self, hidden: Float[Array, "b t d"], *, mask: Bool[Array, "b t"] | None = None
    ) -> Float[Array, "b c"]:
        """Classifies texts, or pairs of them, by the pooled state.

        Args:
          hidden: final hidden states, (b, t, d).
          mask: as in `pool`.
        Returns:
          Logits (b, classes) in float32.
        Raises:
          ValueError: the model has no such head.
        """
        head = require_part(self.classifier, "classifier")
        return head(self.pool(hidden, mask=mask)).astype(jnp.float32)

    def token_logits(self, hidden: Float[Array, "b t d"]) -> Float[Array, "b t c"]:
        """Classifies every token.

        Args:
          hidden: final hidden states, (b, t, d).
        Returns:
          Logits (b, t, classes) in float32.
        Raises:
          ValueError: the model has no such head.
        """
        head = require_part(self.token_classifier, "token_classifier")
        return head(self._of_tokens(hidden)).astype(jnp.float32)

    def span_logits(self, hidden: Float[Array, "b t d"]) -> Float[Array, "b t 2"]:
        """Logits of a token to be the first of an answer, and to be the last.

        Args:
          hidden: final hidden states, (b, t, d).
        Returns:
          Logits (b, t, 2) in float32.
        Raises:
          ValueError: the model has no such head.
        """
        head = require_part(self.span_head, "span_head")
        return head(self._of_tokens(hidden)).astype(jnp.float32)

    def replaced_logits(self, hidden: Float[Array, "b t d"]) -> Float[Array, "b t"]:
        """Logits of a token to be another than in the original text.

        Args:
          hidden: final hidden states, (b, t, d).
        Returns:
          Logits (b, t) in float32.
        Raises:
          ValueError: the model has no such head.
        """
        return require_part(self.replaced_head, "replaced_head")(hidden)

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
