"""Cross-encoders, which read two texts at once and score the pair (Nogueira & Cho 2019)."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int
from numpy.typing import NDArray

from gelu_jax.activations import activation
from gelu_jax.errors import ConfigError, Problem
from gelu_jax.families.embeddings import hidden_states
from gelu_jax.families.files import locate
from gelu_jax.families.hf_config import HFConfig, read_json
from gelu_jax.families.loading import Placement, load
from gelu_jax.families.sentence_encoder import (
    TORCH_ACTIVATIONS,
    max_tokens_of,
    optional_json,
    tokenizer_file,
)
from gelu_jax.families.text import encoded, padded, tokenizer_of
from gelu_jax.nn.encoder import Encoder


@dataclass(frozen=True)
class CrossEncoder:
    """A model with a head for texts, its tokenizer, and what is applied to its logits.

    Attributes:
      model: an `Encoder` or a `Transformer` with a classifier.
      tokenizer: a `tokenizers.Tokenizer`, which neither pads nor truncates.
      activation: the name of what is applied to the logits.
      max_tokens: what longer pairs are cut to, the longer text first; None for no limit.
    """

    model: Any
    tokenizer: Any
    activation: str = "identity"
    max_tokens: int | None = None

    def predict(
        self, pairs: Sequence[tuple[str, str]], *, batch_size: int = 32
    ) -> NDArray[np.float32]:
        """Scores pairs of texts, compiled once for each shape of a batch.

        Args:
          pairs: n of them, such as a question and an answer to be ranked.
          batch_size: how many are computed at once.
        Returns:
          Scores (n,) in float32 of a model with one label, else (n, labels).
        """
        rows = encoded(self.tokenizer, [tuple(pair) for pair in pairs], self.max_tokens)
        longest_first = sorted(range(len(rows)), key=lambda i: -len(rows[i]))
        scores = np.zeros((len(rows), self.num_labels), np.float32)
        for start in range(0, len(rows), batch_size):
            chosen = longest_first[start : start + batch_size]
            tokens, mask = padded([rows[i].ids for i in chosen], self.max_tokens, batch_size)
            types, _ = padded([rows[i].type_ids for i in chosen], self.max_tokens, batch_size)
            found = np.asarray(_score(self.model, tokens, mask, types, phi=self.activation))
            scores[chosen] = found[: len(chosen)]
        return scores[:, 0] if self.num_labels == 1 else scores

    @property
    def num_labels(self) -> int:
        """Labels that a pair is scored for."""
        return self.model.config.num_classes


@partial(jax.jit, static_argnames="phi")
def _score(
    model: Any,
    tokens: Int[Array, "b t"],
    mask: Bool[Array, "b t"],
    token_types: Int[Array, "b t"],
    *,
    phi: str,
) -> Float[Array, "b c"]:
    hidden = _hidden(model, tokens, mask, token_types)
    return activation(phi)(model.class_logits(hidden, mask=mask))


def _hidden(model: Any, tokens: Array, mask: Array, token_types: Array) -> Array:
    """Final hidden states; the second text has a type of its own where the model has types."""
    if isinstance(model, Encoder) and (model.config.transformer.token_types or 1) > 1:
        return model(tokens, True, mask=mask, token_types=token_types)
    return hidden_states(model, tokens, mask)


def load_cross_encoder(
    path: str | os.PathLike[str],
    *,
    tokenizer: Any = None,
    dtype: DTypeLike | None = None,
    sharding: Placement = None,
) -> CrossEncoder:
    """The cross-encoder in a directory, with the scores of sentence-transformers' CrossEncoder.

    Args:
      path: the directory of a model with a head for texts, or a repository id of the model hub,
        which is looked up in the hub's local cache; nothing is fetched.
      tokenizer: a `tokenizers.Tokenizer`, one of transformers', or the path of a tokenizer.json;
        None for the directory's own.
      dtype: as in `load`.
      sharding: as in `load`.

    Returns:
      The cross-encoder. Its scores are logits, or their sigmoid where there is one label and the
      directory says nothing else.

    Raises:
      ConfigError: there is no such directory, its model has no head for texts, or it asks for what
        is not supported.
      WeightsError: as in `load`.
    """
    folder = locate(path)
    model = load(folder, dtype=dtype, sharding=sharding)
    labels = getattr(model.config, "num_classes", None)
    if labels is None:
        reason = "has no head that scores texts"
        raise ConfigError([Problem("path", folder, reason)])
    own = tokenizer_of(tokenizer_file(folder) if tokenizer is None else tokenizer)
    default = "sigmoid" if labels == 1 else "identity"
    settings = optional_json(folder / "sentence_bert_config.json")
    limit = max_tokens_of(folder, settings, model)
    return CrossEncoder(model, own, _activation(folder, default), limit)


def _activation(folder: Path, default: str) -> str:
    """What either of three files says of it, in the order in which they are asked."""
    settings = optional_json(folder / "config_sentence_transformers.json")
    values = read_json(folder / "config.json")
    found = (
        settings.values.get("activation_fn"),
        (values.get("sentence_transformers") or {}).get("activation_fn"),
        values.get("sbert_ce_default_activation_function"),
    )
    name = next((name for name in found if name is not None), None)
    if name is None:
        return default
    field = HFConfig({"activation_fn": name})
    return TORCH_ACTIVATIONS[field.one_of("activation_fn", TORCH_ACTIVATIONS, "")]
