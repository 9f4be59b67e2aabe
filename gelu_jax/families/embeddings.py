"""Sentence embeddings: a model's hidden states, pooled and passed on (Reimers & Gurevych 2019)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int
from numpy.typing import NDArray

from gelu_jax.activations import activation
from gelu_jax.errors import ConfigError, Problem, nearest
from gelu_jax.families.text import encoded, padded, tokenizer_of
from gelu_jax.nn.encoder import Encoder
from gelu_jax.nn.encoder_decoder import EncoderDecoder
from gelu_jax.nn.linear import Linear
from gelu_jax.nn.pooling import pool, unit
from gelu_jax.nn.transformer import Transformer


class Pooling(nnx.Module):
    """Pools hidden states, in one way or in several that are concatenated.

    Args:
      kinds: the ways, as in `gelu_jax.nn.pooling.pool`.
      include_prompt: whether the tokens of a prompt count.
    """

    def __init__(self, kinds: Sequence[str] = ("mean",), *, include_prompt: bool = True):
        self.kinds = tuple(kinds)
        self.include_prompt = include_prompt

    def __call__(
        self, hidden: Float[Array, "b t d"], mask: Bool[Array, "b t"], prompt_length: Int[Array, ""]
    ) -> Float[Array, "b e"]:
        """One vector for each text.

        Args:
          hidden: (b, t, d).
          mask: (b, t), True at real tokens, which begin each row.
          prompt_length: how many tokens of a row belong to the prompt.
        Returns:
          The vectors, (b, d · kinds) in float32.
        """
        if not self.include_prompt:
            mask = mask & (jax.numpy.arange(mask.shape[1]) >= prompt_length)
        return jax.numpy.concatenate([pool(hidden, mask, kind) for kind in self.kinds], axis=-1)


class Dense(nnx.Module):
    """A linear map of pooled vectors and an activation, φ(x W + b), plus a residual or none.

    Args:
      linear: the map.
      activation: the name of φ.
      residual: whether x is added to the result.
      projection: a linear map of x that is added in its place; None for x itself.
    """

    def __init__(
        self,
        linear: Linear,
        activation: str,
        *,
        residual: bool = False,
        projection: Linear | None = None,
    ):
        self.linear = linear
        self.activation = activation
        self.residual = residual
        self.projection = projection

    def __call__(self, x: Float[Array, "b d"]) -> Float[Array, "b e"]:
        """Applies the map.

        Args:
          x: (b, d).
        Returns:
          An array (b, e).
        """
        y = activation(self.activation)(self.linear(x))
        if not self.residual:
            return y
        return y + (x if self.projection is None else self.projection(x))


class Unit(nnx.Module):
    """Scales vectors to length 1."""

    def __call__(self, x: Float[Array, "b d"]) -> Float[Array, "b d"]:
        """Applies the scale.

        Args:
          x: (b, d).
        Returns:
          An array (b, d).
        """
        return unit(x)


@dataclass(frozen=True)
class SentenceEncoder:
    """A model, its tokenizer, and what is done with its hidden states.

    Attributes:
      model: what gives hidden states: `Encoder`, `Transformer`, or `EncoderDecoder`, whose encoder
        is used.
      tokenizer: a `tokenizers.Tokenizer`, which neither pads nor truncates.
      pooling: from hidden states to one vector for each text.
      stages: what is applied to the vectors, in order.
      max_tokens: what longer texts are cut to, special tokens counted and kept; None for no limit.
      prompts: texts to put before a text, by name.
      default_prompt: the name of the prompt where none is asked for; None for no prompt.
    """

    model: Any
    tokenizer: Any
    pooling: Pooling = field(default_factory=Pooling)
    stages: tuple[nnx.Module, ...] = ()
    max_tokens: int | None = None
    prompts: Mapping[str, str] = field(default_factory=dict[str, str])
    default_prompt: str | None = None

    def encode(
        self,
        texts: str | Sequence[str],
        *,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
    ) -> NDArray[np.float32]:
        """Computes one vector for each text, compiled once for each shape of a batch.

        Texts are batched by length, and padded to a multiple of 16 tokens.

        Args:
          texts: n of them, or one.
          prompt_name: a name in ``prompts``; None for ``default_prompt``.
          prompt: put before each text, whatever the names say.
          batch_size: how many texts are computed at once.
        Returns:
          The vectors, (n, e) in float32; (e,) for one text.
        Raises:
          ConfigError: there is no such prompt.
        """
        if isinstance(texts, str):
            return self.encode([texts], prompt_name=prompt_name, prompt=prompt)[0]
        prompt = self._prompt(prompt_name) if prompt is None else prompt
        rows = encoded(self.tokenizer, [prompt + text for text in texts], self.max_tokens)
        skipped = np.int32(self._prompt_length(prompt))
        longest_first = sorted(range(len(rows)), key=lambda i: -len(rows[i]))
        vectors: NDArray[np.float32] | None = None
        for start in range(0, len(rows), batch_size):
            chosen = longest_first[start : start + batch_size]
            tokens, mask = padded([rows[i].ids for i in chosen], self.max_tokens, batch_size)
            found = np.asarray(_embed(self.model, self.pooling, self.stages, tokens, mask, skipped))
            if vectors is None:
                vectors = np.zeros((len(rows), found.shape[1]), np.float32)
            vectors[chosen] = found[: len(chosen)]
        return np.zeros((0, self.width), np.float32) if vectors is None else vectors

    @property
    def width(self) -> int:
        """Entries e of a vector."""
        tokens, mask = np.zeros((1, 1), np.int32), np.ones((1, 1), bool)
        shape = jax.eval_shape(
            _embed, self.model, self.pooling, self.stages, tokens, mask, np.int32(0)
        )
        return shape.shape[1]

    def _prompt(self, name: str | None) -> str:
        if name is None:
            return self.prompts.get(self.default_prompt or "", "")
        if name in self.prompts:
            return self.prompts[name]
        hint = nearest(name, self.prompts)
        raise ConfigError([Problem("prompt_name", name, f"no such prompt; {hint}")])

    def _prompt_length(self, prompt: str) -> int:
        """Its tokens, without the special one that would end it."""
        if not prompt or self.pooling.include_prompt:
            return 0
        row = encoded(self.tokenizer, [prompt], self.max_tokens)[0]
        return len(row) - row.special_tokens_mask[-1]


@jax.jit
def _embed(
    model: Any,
    pooling: Pooling,
    stages: tuple[Any, ...],
    tokens: Int[Array, "b t"],
    mask: Bool[Array, "b t"],
    prompt_length: Int[Array, ""],
) -> Float[Array, "b e"]:
    x = pooling(hidden_states(model, tokens, mask), mask, prompt_length)
    for stage in stages:
        x = stage(x)
    return x.astype(jax.numpy.float32)


def hidden_states(
    model: Any, tokens: Int[Array, "b t"], mask: Bool[Array, "b t"]
) -> Float[Array, "b t d"]:
    """The final hidden states of a model of texts.

    Args:
      model: `Encoder`, `Transformer`, or `EncoderDecoder`, whose encoder is used.
      tokens: (b, t).
      mask: (b, t), True at real tokens, False at padding.

    Returns:
      Hidden states (b, t, d).

    Raises:
      ConfigError: the model is no such model.
    """
    match model:
        case Encoder():
            return model(tokens, mask=mask)
        case Transformer():
            return model.hidden(tokens, mask=mask)
        case EncoderDecoder(stem=None):
            return model.encode(tokens, mask=mask)
        case _:
            raise ConfigError([Problem("model", type(model).__name__, "not a model of texts")])


def sentence_embeddings(
    model: Any,
    tokenizer: Any,
    texts: str | Sequence[str],
    *,
    batch_size: int = 32,
    max_tokens: int | None = None,
) -> NDArray[np.float32]:
    """One vector of length 1 for each text: e = Σ mᵢhᵢ / Σ mᵢ over its tokens, then e/‖e‖₂.

    Models that pool otherwise say so in their modules.json: `load_sentence_encoder` reads it.

    Args:
      model: such as `load` gives: an `Encoder`, a `Transformer`, or an `EncoderDecoder`.
      tokenizer: a `tokenizers.Tokenizer`, one of transformers', or the path of a tokenizer.json.
      texts: n of them, or one.
      batch_size: how many are computed at once.
      max_tokens: what longer texts are cut to, special tokens counted and kept; None means as many
        as the model has positions.

    Returns:
      The vectors, (n, d_model) in float32; (d_model,) for one text.

    Raises:
      ImportError: tokenizers is not installed.
    """
    most = max_tokens or max_positions(model)
    encoder = SentenceEncoder(model, tokenizer_of(tokenizer), stages=(Unit(),), max_tokens=most)
    return encoder.encode(texts, batch_size=batch_size)


def max_positions(model: Any) -> int | None:
    """How many tokens a model has learned positions for.

    Args:
      model: a model of texts.

    Returns:
      The number; None where its positions are not in a table.
    """
    config = getattr(model.config, "transformer", model.config)
    return getattr(config, "max_tokens", None)
