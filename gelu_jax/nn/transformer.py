"""The transformer: embed → blocks → norm → head; a decoder or an encoder, as its attention is."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, Key

from gelu_jax.errors import ConfigError, Problem, check
from gelu_jax.nn import checks
from gelu_jax.nn.attention import Cache, LayerValues
from gelu_jax.nn.axes import Axes, matmul, take_rows, with_sharding_constraint
from gelu_jax.nn.balance import RoutingStatistics
from gelu_jax.nn.block import BlockConfig
from gelu_jax.nn.dropout import Rngs, Stochastic
from gelu_jax.nn.experts import MoEConfig
from gelu_jax.nn.feed_forward import FeedForwardConfig
from gelu_jax.nn.linear import Linear, LinearConfig, linear_head, require_part
from gelu_jax.nn.norm import Norm
from gelu_jax.nn.parameters import add_bias, cast, kernel, wide_dtype
from gelu_jax.nn.pooling import pool
from gelu_jax.nn.position import RelativeConfig, RotaryConfig, relative_bias, token_positions
from gelu_jax.nn.stack import (
    LayerKind,
    apply_layers,
    apply_layers_with_routing,
    empty_cache,
    init_layers,
    layer_values,
    one_layer,
    unstacked,
)


@dataclass(frozen=True)
class TransformerConfig:
    """A stack of equal blocks over tokens; causal attention makes it a decoder, full an encoder.

    Attributes:
      vocab_size: number of tokens v.
      num_layers: number of blocks.
      block: the config of every block.
      max_positions: rows of a learned position table; None for no table (rotary positions belong
        to the attention).
      tie_embeddings: whether the head is the embedding's transpose.
      scan_layers: True compiles one block for all layers, so that compile time does not grow with
        depth; False unrolls them (same parameters, same results); None scans more than 8 layers.
      init_std: standard deviation of embedding, head and tables; None for 1/√d.
      dtype: dtype that embedding and head compute in; logits are float32.
      param_dtype: dtype that embedding and head are stored in.
      embedding_scale: multiplies the tokens' embeddings (Gemma).
      token_types: number of segment types, each with an embedding (BERT); None for no table.
      embedding_norm: whether there is a norm before the first block (BERT).
      position_offset: the row of the position table for the first token (RoBERTa: 2).
      relative: buckets of a table of relative positions that all layers share (MPNet); None for
        none.
      pattern: windows and rotary positions of the first layers, repeated for the others, in place
        of those of the block's attention; and their feed-forward parts, where they have others than
        the block. Empty where all layers are alike.
      has_head: whether there are logits; False for hidden states alone.
      num_classes: classes of a linear head on the last real token (reward models); None for none.
      logit_soft_cap: c, which turns logits l into c·tanh(l/c) (Gemma 2); None for none.
      embedding_size: width e of the tables and the norm before the first block, which a linear map
        takes to d (ELECTRA, ALBERT); None for d, without a map.
      shared_layers: whether all layers are one block, applied again and again (ALBERT).
      kind: "transformer", which tells model configs apart in a config file.

    Raises:
      ConfigError: a field has a wrong value.
    """

    vocab_size: int
    num_layers: int
    block: BlockConfig
    max_positions: int | None = None
    tie_embeddings: bool = True
    scan_layers: bool | None = None
    init_std: float | None = None
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32
    embedding_scale: float = 1.0
    token_types: int | None = None
    embedding_norm: bool = False
    position_offset: int = 0
    relative: RelativeConfig | None = None
    pattern: tuple[LayerKind, ...] = ()
    has_head: bool = True
    num_classes: int | None = None
    logit_soft_cap: float | None = None
    embedding_size: int | None = None
    shared_layers: bool = False
    kind: Literal["transformer"] = "transformer"

    def __post_init__(self):
        checks.field_types(self)
        check(self._problems())

    def _problems(self) -> Iterator[Problem]:
        yield from checks.positive(
            vocab_size=self.vocab_size,
            num_layers=self.num_layers,
            max_positions=self.max_positions,
            embedding_scale=self.embedding_scale,
            token_types=self.token_types,
            init_std=self.init_std,
            num_classes=self.num_classes,
            logit_soft_cap=self.logit_soft_cap,
            embedding_size=self.embedding_size,
        )
        yield from checks.not_negative(position_offset=self.position_offset)
        yield from checks.floating(dtype=self.dtype, param_dtype=self.param_dtype)
        yield from self._pattern_problems()

    def _pattern_problems(self) -> Iterator[Problem]:
        d, experts = self.block.d_model, dict[str, int]()
        for i, kind in enumerate(self.pattern):
            part, name = kind.feed_forward, f"pattern[{i}].feed_forward"
            part = self.block.feed_forward if part is None else part
            widths = {f"{name}.d_model": part.d_model, f"{name}.d_out": part.d_out or d}
            yield from checks.equal(d, "block.norm.d_model", widths)
            if kind.rotary is not None:
                head_size = self.block.attention.head_size
                yield from kind.rotary.problems_in_head(head_size, f"pattern[{i}].rotary")
            if isinstance(part, MoEConfig):
                experts[f"{name}.num_experts"] = part.num_experts
        for name in experts:
            first = next(iter(experts))
            yield from checks.equal(experts[first], first, {name: experts[name]})
        if self.shared_layers and len(set(self.feed_forwards)) > 1:
            yield Problem("shared_layers", True, "needs one feed_forward for all layers")

    @property
    def feed_forwards(self) -> tuple[FeedForwardConfig | MoEConfig, ...]:
        """The feed-forward part of each layer; empty where no layer has one of its own."""
        if all(kind.feed_forward is None for kind in self.pattern):
            return ()
        parts = [kind.feed_forward or self.block.feed_forward for kind in self.pattern]
        return tuple(parts[i % len(parts)] for i in range(self.num_layers))

    @property
    def embedding_width(self) -> int:
        """Width e of the tokens' embeddings."""
        return self.embedding_size or self.block.d_model

    @property
    def num_blocks(self) -> int:
        """Blocks that have weights of their own."""
        return 1 if self.shared_layers else self.num_layers

    @property
    def highest_dropout_rate(self) -> float:
        """Of the dropout rates of all blocks, the highest."""
        rates = (part.dropout_rate for part in self.feed_forwards)
        return max((self.block.highest_dropout_rate, *rates))

    @property
    def max_tokens(self) -> int | None:
        """How many tokens there are positions for; None for no limit."""
        limits = [rotation.valid_positions for rotation in self._rotations]
        if self.max_positions is not None:
            limits.append(self.max_positions - self.position_offset)
        return min((limit for limit in limits if limit is not None), default=None)

    @property
    def short_lengths(self) -> tuple[int, ...]:
        """Lengths beyond which rotary frequencies are others, for all tokens of a sequence."""
        found = {rotation.short_length for rotation in self._rotations}
        return tuple(sorted(length for length in found if length is not None))

    @property
    def _rotations(self) -> list[RotaryConfig]:
        rotations = [self.block.attention.rotary, *(kind.rotary for kind in self.pattern)]
        return [rotation for rotation in rotations if rotation is not None]


class Transformer(Stochastic):
    """The model as an NNX module.

    What shapes show is checked. What only values show is not, because they may be traced: a token
    from v on or a position beyond ``max_positions`` gives NaN, and a cache that is full overwrites
    its last slots.

    Parameters: ``embedding`` (v, e); ``head`` (v, e), None where tied; ``positions`` (t, e) and
    ``token_types`` (n, e), or None; ``embedding_projection`` (e, d), None where e = d;
    ``layers``, one `Block` with a leading layer axis; ``relative`` (buckets, h), or None;
    ``classifier``, or None; ``embedding_norm``, or None; ``final_norm``, None where a post-norm
    stack ends in its last block's norm.

    Args:
      config: the model's config.
      rngs: source of the initial values.
    """

    axes: ClassVar[Axes] = {
        "embedding": "v d",
        "head": "v d",
        "positions": "t d",
        "token_types": "n d",
        "relative": "n h",
    }

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        self.config = config
        norm, d = config.block.norm, config.embedding_width
        std, dtype = config.init_std, config.param_dtype

        def table(name: str, rows: int) -> nnx.Param[Array]:
            axes = self.axes[name]
            return kernel(rngs, (rows, d), fan_in=d, std=std, dtype=dtype, axes=axes)

        v, t, n = config.vocab_size, config.max_positions, config.token_types
        own_head = config.has_head and not config.tie_embeddings
        self.embedding = table("embedding", v)
        self.head = table("head", v) if own_head else None
        self.positions = None if t is None else table("positions", t)
        parts = config.feed_forwards[: config.num_blocks]
        self.layers = init_layers(config.block, config.num_blocks, feed_forwards=parts, rngs=rngs)
        self.token_types = None if n is None else table("token_types", n)
        own_norm = replace(norm, d_model=d)
        self.embedding_norm = Norm(own_norm, rngs=rngs) if config.embedding_norm else None
        post_norm = config.block.style == "post_norm"
        self.final_norm = None if post_norm else Norm(norm, rngs=rngs)
        self.relative = _relative_table(config, rngs=rngs)
        classes = config.num_classes
        self.classifier = (
            None if classes is None else linear_head(config, classes, use_bias=False, rngs=rngs)
        )
        self.embedding_projection = _embedding_projection(config, rngs=rngs)

    def __call__(
        self,
        tokens: Int[Array, "b t"],
        deterministic: bool | None = None,
        *,
        mask: Bool[Array, "b t"] | None = None,
        positions: Int[Array, "#b t"] | None = None,
        segment_ids: Int[Array, "b t"] | None = None,
        rngs: Rngs | None = None,
        dropout_key: Key[Array, ""] | None = None,
    ) -> Float[Array, "b t v"]:
        """Computes the logits.

        Args:
          tokens: (b, t), integers in [0, v).
          deterministic: whether dropout is off; None for what `nnx.Module.train` and
            `nnx.Module.eval` set last, and on in a new module.
          mask: (b, t), True at real tokens, False at padding; None for no padding.
          positions: learned and rotary ones, (b or 1, t); None for the number of real tokens
            before each. Who sees whom is a matter of order, whatever they are.
          segment_ids: (b, t), which documents the tokens are of: a token attends to those of its
            own alone, and positions begin again with each; None for one document in each row.
          rngs: gives the dropout's key where `dropout_key` is None; its stream is "dropout".
          dropout_key: PRNG key of all dropout.
        Returns:
          Logits (b, t, v) in float32.
        Raises:
          ValueError: dropout is on, and there is no key.
        """
        dropout: dict[str, Any] = {
            "deterministic": deterministic,
            "rngs": rngs,
            "dropout_key": dropout_key,
        }
        place: dict[str, Any] = {"mask": mask, "positions": positions}
        place["segment_ids"] = segment_ids
        return self.logits(self.hidden(tokens, **place, **dropout))

    def hidden(
        self,
        tokens: Int[Array, "b t"],
        *,
        mask: Bool[Array, "b t"] | None = None,
        positions: Int[Array, "#b t"] | None = None,
        segment_ids: Int[Array, "b t"] | None = None,
        token_types: Int[Array, "b t"] | None = None,
        deterministic: bool | None = None,
        rngs: Rngs | None = None,
        dropout_key: Key[Array, ""] | None = None,
    ) -> Float[Array, "b t d"]:
        """Computes the final hidden states, the output of an encoder.

        Args:
          tokens: (b, t), integers in [0, v).
          mask: (b, t), True at real tokens, False at padding; None for no padding.
          positions: of the tokens, as in `__call__`.
          segment_ids: documents of the tokens, as in `__call__`.
          token_types: (b, t), segment types; None for type 0 throughout.
          deterministic: whether dropout is off, as in `__call__`.
          rngs: gives the dropout's key where `dropout_key` is None; its stream is "dropout".
          dropout_key: PRNG key of all dropout.
        Returns:
          Hidden states (b, t, d).
        Raises:
          ValueError: dropout is on, and there is no key.
        """
        inputs: dict[str, Any] = {"mask": mask, "token_types": token_types}
        inputs |= {"positions": positions, "segment_ids": segment_ids}
        dropout: dict[str, Any] = {
            "deterministic": deterministic,
            "rngs": rngs,
            "dropout_key": dropout_key,
        }
        return self.apply_layers(self.embed(tokens), **inputs, **dropout)[0]

    def decode(
        self,
        tokens: Int[Array, "b t"],
        cache: Cache,
        *,
        mask: Bool[Array, "b t"] | None = None,
        positions: Int[Array, "#b t"] | None = None,
    ) -> tuple[Float[Array, "b t v"], Cache]:
        """Computes the logits of the next t tokens: a prompt, or one token; dropout is off.

        Where a sequence outgrows one of ``config.short_lengths`` with them, the keys and values in
        the cache are still those of the shorter sequence; `gelu_jax.nn.decoding.generate` computes
        them anew.

        Args:
          tokens: (b, t), integers in [0, v).
          cache: keys and values of the tokens before them, as `empty_cache` or this method made it.
          mask: (b, t), True at real tokens, False at padding; None for no padding.
          positions: of the tokens, as in `__call__`.
        Returns:
          Logits (b, t, v) in float32, and the cache with the t tokens added.
        """
        if not self.config.block.attention.causal:
            reason = "tokens cannot be generated where each sees those that follow it"
            raise ConfigError([Problem("causal", False, reason)])
        x = self.embed(tokens)
        place: dict[str, Any] = {"mask": mask, "positions": positions}
        hidden, cache = self.apply_layers(x, cache, **place, deterministic=True)
        return self.logits(hidden), cache

    def unstacked(self, cache: Cache) -> tuple["Transformer", Cache]:
        """The model and its cache for a loop over tokens, as `gelu_jax.nn.stack.unstacked` says.

        Args:
          cache: as `empty_cache` or `decode` made it.
        Returns:
          A model and a cache whose `decode` gives the same.
        """
        copy = jax.tree.map(lambda leaf: leaf, self)
        copy.layers, cache = unstacked(self.layers, cache, self.config.scan_layers)
        return copy, cache

    def empty_cache(self, batch_size: int, length: int) -> Cache:
        """An empty key/value cache for every layer.

        Args:
          batch_size: rows b.
          length: tokens that fit into a row, prompt and continuation together.
        Returns:
          A cache for `decode`, with a leading layer axis.
        Raises:
          ConfigError: the model has no positions for so many tokens.
        """
        check(checks.within_positions(length, self.config.max_tokens))
        cache = empty_cache(self.layers, batch_size, length)
        if not self.config.shared_layers:
            return cache
        return jax.tree.map(lambda leaf: jnp.repeat(leaf, self.config.num_layers, 0), cache)

    def embed(self, tokens: Int[Array, "b t"]) -> Float[Array, "b t e"]:
        """Looks up the tokens' embeddings and scales them; positions are not added.

        Args:
          tokens: (b, t), integers in [0, v).
        Returns:
          Embeddings (b, t, e).
        """
        scale = jnp.asarray(self.config.embedding_scale, self.config.dtype)
        return self._rows(self.embedding, "v", tokens) * scale

    def _rows(self, table: nnx.Param[Array], axis: str, indices: Int[Array, "..."]) -> Array:
        """Looks up rows of a table, which is not sharded along d meanwhile; NaN beyond its end."""
        rows = with_sharding_constraint(cast(table, self.config.dtype), f"{axis} -")
        return take_rows(rows, indices)

    def apply_layers(
        self,
        embeddings: Float[Array, "b t e"],
        cache: Cache | None = None,
        *,
        mask: Bool[Array, "b t"] | None = None,
        positions: Int[Array, "#b t"] | None = None,
        segment_ids: Int[Array, "b t"] | None = None,
        token_types: Int[Array, "b t"] | None = None,
        deterministic: bool | None = None,
        rngs: Rngs | None = None,
        dropout_key: Key[Array, ""] | None = None,
    ) -> tuple[Float[Array, "b t d"], Any]:
        """Computes the final hidden states of embedded tokens, or of vectors in their place.

        Args:
          embeddings: (b, t, e), as `embed` returns them.
          cache: keys and values of earlier tokens; None for none.
          mask: (b, t), True at real tokens, False at padding; None for no padding.
          positions: of the tokens, as in `__call__`.
          segment_ids: documents of the tokens, as in `__call__`.
          token_types: (b, t), segment types; None for type 0 throughout.
          deterministic: whether dropout is off, as in `__call__`.
          rngs: gives the dropout's key where `dropout_key` is None; its stream is "dropout".
          dropout_key: PRNG key of all dropout.
        Returns:
          Hidden states (b, t, d), and the cache with the t tokens added, or None.
        Raises:
          ConfigError: the model has no positions for so many tokens.
          ValueError: dropout is on, and there is no key.
        """
        options: dict[str, Any] = {"mask": mask, "positions": positions, "rngs": rngs}
        options |= {"segment_ids": segment_ids, "token_types": token_types}
        options |= {"deterministic": deterministic, "dropout_key": dropout_key}
        return self._apply_layers(embeddings, cache, **options)[:2]

    def _apply_layers(
        self,
        embeddings: Array,
        cache: Cache | None = None,
        *,
        mask: Array | None = None,
        positions: Array | None = None,
        segment_ids: Array | None = None,
        token_types: Array | None = None,
        deterministic: bool | None = None,
        rngs: Rngs | None = None,
        dropout_key: Array | None = None,
    ) -> tuple[Array, Any, RoutingStatistics | None]:
        c = self.config
        key = self.key_of_call(c.highest_dropout_rate, deterministic, rngs, dropout_key)
        place: dict[str, Any] = {"mask": mask, "positions": positions}
        place["segment_ids"] = segment_ids
        x = self.block_input(embeddings, cache, **place, token_types=token_types)
        x, cache, routing = apply_layers_with_routing(
            self.layers,
            x,
            cache,
            **place,
            bias=self.position_bias(x.shape[1]),
            values=self.layer_values,
            deterministic=key is None,
            dropout_key=key,
            scan=c.scan_layers,
            repeats=c.num_layers if c.shared_layers else None,
        )
        return self.final_hidden(x), cache, routing

    def with_routing(
        self,
        tokens: Int[Array, "b t"],
        deterministic: bool | None = None,
        *,
        mask: Bool[Array, "b t"] | None = None,
        positions: Int[Array, "#b t"] | None = None,
        segment_ids: Int[Array, "b t"] | None = None,
        rngs: Rngs | None = None,
        dropout_key: Key[Array, ""] | None = None,
    ) -> tuple[Float[Array, "b t v"], RoutingStatistics | None]:
        """Computes the logits, and what the routers did: a training loss adds its ``loss.sum()``.

        Args:
          tokens: (b, t), integers in [0, v).
          deterministic: whether dropout is off, as in `__call__`.
          mask: (b, t), True at real tokens, False at padding; None for no padding.
          positions: of the tokens, as in `__call__`.
          segment_ids: documents of the tokens, as in `__call__`.
          rngs: gives the dropout's key where `dropout_key` is None; its stream is "dropout".
          dropout_key: PRNG key of all dropout.
        Returns:
          Logits (b, t, v) in float32; and the statistics with a leading layer axis, None where the
          blocks have no experts.
        Raises:
          ValueError: dropout is on, and there is no key.
        """
        options: dict[str, Any] = {"mask": mask, "positions": positions, "rngs": rngs}
        options |= {"segment_ids": segment_ids, "dropout_key": dropout_key}
        embeddings = self.embed(tokens)
        hidden, _, routing = self._apply_layers(embeddings, deterministic=deterministic, **options)
        return self.logits(hidden), routing

    def states(
        self, tokens: Int[Array, "b t"], *, mask: Bool[Array, "b t"] | None = None
    ) -> list[Float[Array, "b t d"]]:
        """Computes the input of the first block and the output of each, to look at or compare.

        Args:
          tokens: (b, t), integers in [0, v).
          mask: (b, t), True at real tokens, False at padding; None for no padding.
        Returns:
          num_layers + 1 arrays (b, t, d); the final norm is not applied.
        """
        found = [self.block_input(self.embed(tokens), mask=mask)]
        bias = self.position_bias(tokens.shape[1])
        for i in range(self.config.num_layers):
            own = jax.tree.map(lambda leaf, i=i: leaf[i : i + 1], self.layer_values)
            block = one_layer(self.layers, 0 if self.config.shared_layers else i)
            layer = jax.tree.map(lambda leaf: leaf[None], block)
            given: dict[str, Any] = {"mask": mask, "bias": bias, "values": own}
            found.append(apply_layers(layer, found[-1], deterministic=True, **given)[0])
        return found

    @property
    def layer_values(self) -> LayerValues | None:
        """Windows and rotary positions of every layer; None where all have the attention's."""
        c, attention = self.config, self.config.block.attention
        own = LayerKind(attention.window, attention.rotary)
        if all(replace(kind, feed_forward=None) == own for kind in c.pattern):
            return None
        return layer_values(c.pattern, c.num_layers, c.block.attention.head_size)

    def position_bias(self, length: int) -> Float[Array, "1 h t t"] | None:
        """The bias of the scores by relative positions, the same for all layers.

        Args:
          length: tokens t.
        Returns:
          An array (1, h, t, t); None where the model has no relative positions.
        """
        c = self.config
        if self.relative is None or c.relative is None:
            return None
        positions = jnp.arange(length)
        table = cast(self.relative, c.dtype)
        return relative_bias(table, positions, positions, c.relative, causal=False)

    def block_input(
        self,
        embeddings: Float[Array, "b t e"],
        cache: Cache | None = None,
        *,
        mask: Bool[Array, "b t"] | None = None,
        positions: Int[Array, "#b t"] | None = None,
        segment_ids: Int[Array, "b t"] | None = None,
        token_types: Int[Array, "b t"] | None = None,
    ) -> Float[Array, "b t d"]:
        """The input of the first block: positions and token types added, normed, mapped to d.

        Args:
          embeddings: (b, t, e), as `embed` returns them.
          cache: keys and values of earlier tokens; None for none.
          mask: (b, t), True at real tokens, False at padding; None for no padding.
          positions: of the tokens, as in `__call__`.
          segment_ids: documents of the tokens, as in `__call__`.
          token_types: (b, t), segment types; None for type 0 throughout.
        Returns:
          An array (b, t, d) of ``config.dtype``.
        Raises:
          ConfigError: the model has no positions for so many tokens.
        """
        if (
            mask is None and positions is None and segment_ids is None
        ):  # which may say less than there are tokens
            check(checks.within_positions(embeddings.shape[1], self.config.max_tokens))
        dtype = self.config.dtype
        x = embeddings.astype(dtype)
        if self.positions is not None:
            if positions is None:
                earlier = None if cache is None else cache.mask[0]
                positions = token_positions(x.shape[1], mask, earlier, segment_ids)
            x = x + self._rows(self.positions, "t", positions + self.config.position_offset)
        if self.token_types is not None:
            types = 0 if token_types is None else token_types
            x = add_bias(x, take_rows(cast(self.token_types, dtype), jnp.asarray(types)))
        x = x if self.embedding_norm is None else self.embedding_norm(x)
        return x if self.embedding_projection is None else self.embedding_projection(x)

    def final_hidden(self, x: Float[Array, "b t d"]) -> Float[Array, "b t d"]:
        """Applies the final norm, where there is one.

        Args:
          x: output of the last block, (b, t, d).
        Returns:
          Hidden states (b, t, d).
        """
        return x if self.final_norm is None else self.final_norm(x)

    def logits(self, hidden: Float[Array, "b t d"]) -> Float[Array, "b t v"]:
        """Applies the head.

        Args:
          hidden: final hidden states, (b, t, d).
        Returns:
          Logits (b, t, v) in float32 (float64 stays).
        Raises:
          ValueError: the model has no head.
        """
        require_part(self.config.has_head or None, "head")
        table = self.embedding if self.head is None else self.head
        weights = cast(table, self.config.dtype)
        wide = wide_dtype(weights.dtype)
        logits = matmul(hidden, weights.T, preferred_element_type=wide)
        cap = self.config.logit_soft_cap
        return logits if cap is None else cap * jnp.tanh(logits / cap)

    def class_logits(
        self, hidden: Float[Array, "b t d"], *, mask: Bool[Array, "b t"] | None = None
    ) -> Float[Array, "b c"]:
        """Classifies texts, or rates them, by the state of their last token.

        Args:
          hidden: final hidden states, (b, t, d).
          mask: (b, t), True at real tokens, False at padding; None for no padding.
        Returns:
          Logits (b, classes) in float32.
        Raises:
          ValueError: the model has no classifier.
        """
        mask = jnp.ones(hidden.shape[:2], bool) if mask is None else mask
        last = pool(hidden, mask, "lasttoken").astype(hidden.dtype)
        return require_part(self.classifier, "classifier")(last).astype(jnp.float32)


def _embedding_projection(config: TransformerConfig, *, rngs: nnx.Rngs) -> Linear | None:
    if config.embedding_size is None:
        return None
    return Linear(
        LinearConfig(
            config.embedding_size,
            config.block.d_model,
            init_std=config.init_std,
            dtype=config.dtype,
            param_dtype=config.param_dtype,
        ),
        rngs=rngs,
    )


def _relative_table(config: TransformerConfig, *, rngs: nnx.Rngs) -> nnx.Param[Array] | None:
    if config.relative is None:
        return None
    shape = (config.relative.num_buckets, config.block.attention.num_heads)
    d, std, dtype = config.block.d_model, config.init_std, config.param_dtype
    return kernel(rngs, shape, fan_in=d, std=std, dtype=dtype, axes="n h")
