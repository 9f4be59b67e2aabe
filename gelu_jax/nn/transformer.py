"""The transformer: embed → blocks → norm → head; a decoder or an encoder, as its attention is."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, Key

from gelu_jax.errors import Problem, check
from gelu_jax.nn import checks
from gelu_jax.nn.attention import Cache
from gelu_jax.nn.axes import Axes, with_sharding_constraint
from gelu_jax.nn.block import BlockConfig
from gelu_jax.nn.norm import Norm
from gelu_jax.nn.parameters import cast, kernel
from gelu_jax.nn.position import token_positions
from gelu_jax.nn.stack import empty_cache, in_stack, run, stack


@dataclass(frozen=True)
class TransformerConfig:
    """A stack of equal blocks over tokens; causal attention makes it a decoder, full an encoder.

    ``max_positions``: places of a learned position table, None for none (rotary positions belong
    to the attention). ``tie_embeddings``: the head is the embedding's transpose.
    ``scan_layers``: one compiled block for all layers, so that compile time does not grow with
    depth; False unrolls them (same parameters, same results).
    ``embedding_scale`` multiplies the tokens' rows (Gemma); ``token_types`` and ``embedding_norm``
    are BERT's: a table of segment types, and a norm before the first block.
    """

    vocab_size: int
    num_layers: int
    block: BlockConfig
    max_positions: int | None = None
    tie_embeddings: bool = True
    scan_layers: bool = True
    init_std: float | None = None
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32
    embedding_scale: float = 1.0
    token_types: int | None = None
    embedding_norm: bool = False
    kind: Literal["transformer"] = "transformer"

    def __post_init__(self):
        check(self._problems())

    def _problems(self) -> Iterator[Problem]:
        yield from checks.positive(
            vocab_size=self.vocab_size,
            num_layers=self.num_layers,
            max_positions=self.max_positions,
            embedding_scale=self.embedding_scale,
            token_types=self.token_types,
            init_std=self.init_std,
        )
        yield from checks.floating(dtype=self.dtype, param_dtype=self.param_dtype)

    @property
    def layer(self) -> BlockConfig:
        """The block as it stands in the stack: its output kernels start 1/√(2·layers) smaller."""
        return in_stack(self.block, self.num_layers)


class Transformer(nnx.Module):
    """The model as an NNX module; ``layers`` is one `Block` with a leading layer axis.

    A post-norm stack ends in its last block's norm; the others have a ``final_norm``.
    """

    axes: ClassVar[Axes] = {
        "embedding": "v d",
        "head": "v d",
        "positions": "t d",
        "token_types": "n d",
    }

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        self.config = config
        norm = config.block.norm
        d, std, dtype = norm.d_model, config.init_std, config.param_dtype

        def table(rows: int) -> nnx.Param[Array]:
            return kernel(rngs, (rows, d), fan_in=d, std=std, dtype=dtype)

        self.embedding = table(config.vocab_size)
        self.head = None if config.tie_embeddings else table(config.vocab_size)
        self.positions = None if config.max_positions is None else table(config.max_positions)
        self.layers = stack(config.block, config.num_layers, rngs=rngs)
        self.token_types = None if config.token_types is None else table(config.token_types)
        self.embedding_norm = Norm(norm, rngs=rngs) if config.embedding_norm else None
        post_norm = config.block.style == "post_norm"
        self.final_norm = None if post_norm else Norm(norm, rngs=rngs)

    def __call__(
        self,
        tokens: Int[Array, "b t"],
        *,
        mask: Bool[Array, "b t"] | None = None,
        dropout_key: Key[Array, ""] | None = None,
    ) -> Float[Array, "b t v"]:
        """Logits in float32; ``mask`` is True at real tokens."""
        return self.logits(self.hidden(tokens, mask=mask, dropout_key=dropout_key))

    def hidden(
        self,
        tokens: Int[Array, "b t"],
        *,
        mask: Bool[Array, "b t"] | None = None,
        token_types: Int[Array, "b t"] | None = None,
        dropout_key: Key[Array, ""] | None = None,
    ) -> Float[Array, "b t d"]:
        """The final hidden states, what an encoder is used for."""
        return self.run(
            self.embed(tokens), mask=mask, token_types=token_types, dropout_key=dropout_key
        )[0]

    def decode(
        self,
        tokens: Int[Array, "b t"],
        cache: Cache,
        *,
        mask: Bool[Array, "b t"] | None = None,
    ) -> tuple[Float[Array, "b t v"], Cache]:
        """Logits of the next t tokens (a prompt, or one token), and the cache with them added."""
        hidden, cache = self.run(self.embed(tokens), cache, mask=mask)
        return self.logits(hidden), cache

    def empty_cache(self, batch_size: int, length: int) -> Cache:
        """A key/value cache with places for `length` tokens in every layer."""
        return empty_cache(self.layers, batch_size, length)

    def embed(self, tokens: Int[Array, "b t"]) -> Float[Array, "b t d"]:
        """The tokens' rows of the embedding, scaled, before positions."""
        scale = jnp.asarray(self.config.embedding_scale, self.config.dtype)
        return self._rows(self.embedding, "v", tokens) * scale

    def _rows(self, table: nnx.Param[Array], axis: str, indices: Int[Array, "..."]) -> Array:
        """Rows of a table, which is whole along d while it is looked up in."""
        return with_sharding_constraint(cast(table, self.config.dtype), f"{axis} -")[indices]

    def run(
        self,
        rows: Float[Array, "b t d"],
        cache: Cache | None = None,
        *,
        mask: Bool[Array, "b t"] | None = None,
        token_types: Int[Array, "b t"] | None = None,
        dropout_key: Key[Array, ""] | None = None,
    ) -> tuple[Float[Array, "b t d"], Any]:
        """Hidden states of embedded tokens, or of rows that stand in for them, and the cache.

        ``token_types`` None means type 0 throughout.
        """
        x = self.enter(rows, cache, mask=mask, token_types=token_types)
        scan = self.config.scan_layers
        x, cache = run(self.layers, x, cache, mask=mask, dropout_key=dropout_key, scan=scan)
        return self.leave(x), cache

    def enter(
        self,
        rows: Float[Array, "b t d"],
        cache: Cache | None = None,
        *,
        mask: Bool[Array, "b t"] | None = None,
        token_types: Int[Array, "b t"] | None = None,
    ) -> Float[Array, "b t d"]:
        """What the first block sees of embedded tokens: positions and types added, normed."""
        dtype = self.config.dtype
        x = rows.astype(dtype)
        if self.positions is not None:
            earlier = None if cache is None else cache.mask[0]
            x = x + self._rows(self.positions, "t", token_positions(x.shape[1], mask, earlier))
        if self.token_types is not None:
            types = 0 if token_types is None else token_types
            x = x + cast(self.token_types, dtype)[types]
        return x if self.embedding_norm is None else self.embedding_norm(x)

    def leave(self, x: Float[Array, "b t d"]) -> Float[Array, "b t d"]:
        """What the last block gives, after the final norm where there is one."""
        return x if self.final_norm is None else self.final_norm(x)

    def logits(self, hidden: Float[Array, "b t d"]) -> Float[Array, "b t v"]:
        """The head's scores over the vocabulary, in float32 (float64 stays)."""
        table = self.embedding if self.head is None else self.head
        weights = cast(table, self.config.dtype)
        wide = jnp.promote_types(weights.dtype, jnp.float32)
        return jnp.einsum("btd,vd->btv", hidden, weights, preferred_element_type=wide)
