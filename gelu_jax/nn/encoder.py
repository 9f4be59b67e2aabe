"""BERT: a token encoder with what its pre-training puts on top of it."""

from dataclasses import dataclass
from typing import Literal

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from gelu_jax.activations import activation
from gelu_jax.nn.linear import linear_on, wanted
from gelu_jax.nn.norm import Norm
from gelu_jax.nn.parameters import cast, constant
from gelu_jax.nn.transformer import Transformer, TransformerConfig


@dataclass(frozen=True)
class EncoderConfig:
    """The transformer, and which of BERT's tops it carries (Devlin et al. 2019, section 3.1).

    ``pooler``: tanh of a linear map of the first token. ``masked_head``: the activation of the
    masked-token head, None for none. ``next_sentence_head``: does sentence B follow sentence A?
    """

    transformer: TransformerConfig
    pooler: bool = False
    masked_head: str | None = None
    next_sentence_head: bool = False
    kind: Literal["encoder"] = "encoder"


class MaskedHead(nnx.Module):
    """The masked-token head up to its logits, norm(φ(h W + b)), and the logits' bias."""

    def __init__(self, config: EncoderConfig, *, rngs: nnx.Rngs):
        self.config = config
        t = config.transformer
        self.dense = linear_on(t, t.block.d_model, rngs=rngs)
        self.norm = Norm(t.block.norm, rngs=rngs)
        self.bias = constant(0.0, (t.vocab_size,), t.param_dtype)

    def __call__(self, hidden: Float[Array, "b t d"]) -> Float[Array, "b t d"]:
        return self.norm(activation(self.config.masked_head or "identity")(self.dense(hidden)))


class Encoder(nnx.Module):
    """The encoder as an NNX module; calling it gives the final hidden states."""

    def __init__(self, config: EncoderConfig, *, rngs: nnx.Rngs):
        self.config = config
        t = config.transformer
        self.transformer = Transformer(t, rngs=rngs)
        self.pooler = linear_on(t, t.block.d_model, rngs=rngs) if config.pooler else None
        self.next_sentence_head = linear_on(t, 2, rngs=rngs) if config.next_sentence_head else None
        self.masked_head = MaskedHead(config, rngs=rngs) if config.masked_head else None

    def __call__(
        self,
        tokens: Int[Array, "b t"],
        *,
        mask: Bool[Array, "b t"] | None = None,
        token_types: Int[Array, "b t"] | None = None,
    ) -> Float[Array, "b t d"]:
        """The final hidden states; ``mask`` is True at real tokens."""
        return self.transformer.hidden(tokens, mask=mask, token_types=token_types)

    def pool(self, hidden: Float[Array, "b t d"]) -> Float[Array, "b d"]:
        """tanh(h₀ W + b): the first token's state, for classifiers."""
        return jnp.tanh(wanted(self.pooler, "pooler")(hidden[:, 0]))

    def next_sentence_logits(self, hidden: Float[Array, "b t d"]) -> Float[Array, "b 2"]:
        """Scores of "B follows A" and "B is random"."""
        return wanted(self.next_sentence_head, "next_sentence_head")(self.pool(hidden))

    def masked_logits(self, hidden: Float[Array, "b t d"]) -> Float[Array, "b t v"]:
        """The masked-token head: norm(φ(h W + b)) Eᵀ + c, with E the tied embedding."""
        head = wanted(self.masked_head, "masked_head")
        return self.transformer.logits(head(hidden)) + cast(head.bias, jnp.float32)
