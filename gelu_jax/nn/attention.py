"""Attention: multi-head, grouped-query or multi-query; full, causal or in a sliding window."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from gelu_jax.errors import Problem, check
from gelu_jax.nn import checks
from gelu_jax.nn.axes import Axes
from gelu_jax.nn.parameters import cast, constant, kernel
from gelu_jax.nn.position import RotaryConfig, rotary, token_positions


class Cache(NamedTuple):
    """Keys and values of the tokens seen so far: the first `length` of s places are filled.

    ``mask`` is True where a place holds a real token, False at padding and at empty places.
    """

    keys: Float[Array, "b s g k"]
    values: Float[Array, "b s g k"]
    mask: Bool[Array, "b s"]
    length: Int[Array, ""]


def attention(
    query: Float[Array, "b t h k"],
    key: Float[Array, "b s g k"],
    value: Float[Array, "b s g k"],
    *,
    causal: bool = True,
    window: int | None = None,
    mask: Bool[Array, "#b #h #t s"] | None = None,
    bias: Float[Array, "#b #h #t s"] | None = None,
    scale: float | None = None,
) -> Float[Array, "b t h k"]:
    """softmax(QKᵀ·scale + bias) V (Vaswani et al. 2017, equation 1), the softmax in float32.

    g key/value heads serve h query heads in order, h/g each (Ainslie et al. 2023): g = h is
    multi-head, g = 1 multi-query. Causal: query i sees keys j ≤ i. A window: |i − j| < window.
    ``mask`` is True where a query may look; ``scale`` None means 1/√k.

    >>> q = k = v = jnp.ones((1, 3, 2, 4))
    >>> attention(q, k, v).shape
    (1, 3, 2, 4)
    """
    g, k = key.shape[2:]
    wide = jnp.promote_types(query.dtype, jnp.float32)
    grouped = query.reshape(*query.shape[:2], g, -1, k)
    scores = jnp.einsum("btgrk,bsgk->bgrts", grouped, key, preferred_element_type=wide)
    scores = scores * (k**-0.5 if scale is None else scale)
    if bias is not None:
        scores = scores + _by_group(bias, g).astype(wide)
    queries, keys = scores.shape[-2:]
    for seen in (mask, _within_reach(queries, keys, causal, window)):
        if seen is not None:
            # Finite, so that a row that sees nothing gets a mean of the values and no NaN.
            scores = jnp.where(_by_group(seen, g), scores, 0.7 * jnp.finfo(wide).min)
    weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
    return jnp.einsum("bgrts,bsgk->btgrk", weights, value).reshape(query.shape)


def _by_group(x: Array, g: int) -> Array:
    """(b, h or 1, t, s) with the query heads split into the groups that share a key head."""
    return x[:, :, None] if x.shape[1] == 1 else x.reshape(x.shape[0], g, -1, *x.shape[2:])


def _within_reach(
    queries: int, keys: int, causal: bool, window: int | None
) -> Bool[Array, "1 1 t s"] | None:
    if not causal and window is None:
        return None
    ahead = jnp.arange(keys) - jnp.arange(queries)[:, None]
    near = jnp.ones_like(ahead, bool) if window is None else abs(ahead) < window
    return (near & (ahead <= 0) if causal else near)[None, None]


@dataclass(frozen=True)
class AttentionConfig:
    """What an attention layer is made of; `gelu_jax.nn.parameters` says how it starts.

    ``num_kv_heads`` None means num_heads; ``head_dim`` None means d_model / num_heads;
    ``window`` None means no limit; ``rotary`` None means that the layer knows no positions;
    ``scale`` None means 1/√head_dim; ``out_bias`` None means use_bias.
    """

    d_model: int
    num_heads: int
    num_kv_heads: int | None = None
    head_dim: int | None = None
    causal: bool = True
    window: int | None = None
    rotary: RotaryConfig | None = None
    scale: float | None = None
    use_bias: bool = False
    out_bias: bool | None = None
    init_std: float | None = None
    output_init_scale: float = 1.0
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    def __post_init__(self):
        check(self._problems())

    def _problems(self) -> Iterator[Problem]:
        yield from checks.positive(
            d_model=self.d_model,
            num_heads=self.num_heads,
            num_kv_heads=self.num_kv_heads,
            head_dim=self.head_dim,
            window=self.window,
            scale=self.scale,
            init_std=self.init_std,
        )
        yield from checks.floating(dtype=self.dtype, param_dtype=self.param_dtype)
        if self.head_dim is None:
            yield from checks.divides(self.d_model, "d_model", num_heads=self.num_heads)
        yield from checks.divides(self.num_heads, "num_heads", num_kv_heads=self.num_kv_heads)

    @property
    def kv_heads(self) -> int:
        """Heads that hold keys and values."""
        return self.num_kv_heads or self.num_heads

    @property
    def head_size(self) -> int:
        """Entries of one head."""
        return self.head_dim or self.d_model // self.num_heads


class Attention(nnx.Module):
    """The layer as an NNX module: ``w_query``, ``w_key``, ``w_value``, ``w_out``, and biases.

    >>> layer = Attention(AttentionConfig(8, num_heads=4, num_kv_heads=1), rngs=nnx.Rngs(0))
    >>> layer(jnp.ones((1, 3, 8))).shape
    (1, 3, 8)
    """

    axes: ClassVar[Axes] = {
        "w_query": "d h k", "w_key": "d g k", "w_value": "d g k", "w_out": "h k d",
        "b_query": "h k", "b_key": "g k", "b_value": "g k", "b_out": "d",
    }  # fmt: skip

    def __init__(self, config: AttentionConfig, *, rngs: nnx.Rngs):
        self.config = config
        d, std, dtype = config.d_model, config.init_std, config.param_dtype
        h, g, k = config.num_heads, config.kv_heads, config.head_size
        self.w_query = kernel(rngs, (d, h, k), fan_in=d, std=std, dtype=dtype)
        self.w_key = kernel(rngs, (d, g, k), fan_in=d, std=std, dtype=dtype)
        self.w_value = kernel(rngs, (d, g, k), fan_in=d, std=std, dtype=dtype)
        self.w_out = kernel(
            rngs, (h, k, d), fan_in=h * k, std=std, scale=config.output_init_scale, dtype=dtype
        )
        bias = config.use_bias
        self.b_query = constant(0.0, (h, k), dtype) if bias else None
        self.b_key = constant(0.0, (g, k), dtype) if bias else None
        self.b_value = constant(0.0, (g, k), dtype) if bias else None
        out_bias = bias if config.out_bias is None else config.out_bias
        self.b_out = constant(0.0, (d,), dtype) if out_bias else None

    def __call__(
        self, x: Float[Array, "b t d"], *, mask: Bool[Array, "b t"] | None = None
    ) -> Float[Array, "b t d"]:
        """Attends within x; ``mask`` is True at real tokens, False at padding."""
        return self.attend(x, mask=mask)[0]

    def attend(
        self,
        x: Float[Array, "b t d"],
        cache: Cache | None = None,
        *,
        mask: Bool[Array, "b t"] | None = None,
        bias: Float[Array, "#b #h t s"] | None = None,
    ) -> tuple[Float[Array, "b t d"], Cache | None]:
        """Attends to the cache as well, where one is given, and returns it with x's keys added.

        ``bias`` is added to the scores. A token's rotary position is the number of real tokens
        before it. The caller keeps within the cache's places: writing past the end is not checked.
        """
        c = self.config
        x = x.astype(c.dtype)
        positions = token_positions(x.shape[1], mask, None if cache is None else cache.mask)
        query = self._heads(x, self.w_query, self.b_query, positions)
        key = self._heads(x, self.w_key, self.b_key, positions)
        value = self._heads(x, self.w_value, self.b_value)
        if cache is None:
            look = partial(attention, causal=c.causal, window=c.window)
            seen = None if mask is None else mask[:, None, None, :]
        else:
            look = partial(attention, causal=False)
            seen = _seen(cache.length, x.shape[1], cache.keys.shape[1], c.window)
            cache = _extend(cache, key, value, mask)
            key, value, seen = cache.keys, cache.values, seen & cache.mask[:, None, None, :]
        return self._out(look(query, key, value, mask=seen, bias=bias, scale=c.scale)), cache

    def project_kv(
        self, y: Float[Array, "b s d"], *, mask: Bool[Array, "b s"] | None = None
    ) -> Cache:
        """The keys and values of another sequence, for `cross_attend`."""
        y = y.astype(self.config.dtype)
        key = self._heads(y, self.w_key, self.b_key)
        value = self._heads(y, self.w_value, self.b_value)
        mask = jnp.ones(y.shape[:2], bool) if mask is None else mask
        return Cache(key, value, mask, jnp.asarray(y.shape[1], jnp.int32))

    def cross_attend(self, x: Float[Array, "b t d"], memory: Cache) -> Float[Array, "b t d"]:
        """Attends to the memory alone, all of it (Vaswani et al. 2017, section 3.2.3)."""
        query = self._heads(x.astype(self.config.dtype), self.w_query, self.b_query)
        seen = memory.mask[:, None, None, :]
        scale = self.config.scale
        return self._out(
            attention(query, memory.keys, memory.values, causal=False, mask=seen, scale=scale)
        )

    def _heads(
        self,
        x: Array,
        w: nnx.Param[Array],
        b: nnx.Param[Array] | None,
        positions: Array | None = None,
    ) -> Array:
        c = self.config
        y = jnp.einsum("btd,dhk->bthk", x, cast(w, c.dtype))
        y = y if b is None else y + cast(b, c.dtype)
        return y if c.rotary is None or positions is None else rotary(y, positions, c.rotary)

    def _out(self, y: Array) -> Array:
        dtype = self.config.dtype
        y = jnp.einsum("bthk,hkd->btd", y, cast(self.w_out, dtype))
        return y if self.b_out is None else y + cast(self.b_out, dtype)

    def empty_cache(self, batch_size: int, length: int) -> Cache:
        """A cache with places for `length` tokens."""
        c = self.config
        zeros = jnp.zeros((batch_size, length, c.kv_heads, c.head_size), c.dtype)
        empty = jnp.zeros((batch_size, length), bool)
        return Cache(zeros, zeros, empty, jnp.zeros((), jnp.int32))


def _extend(cache: Cache, key: Array, value: Array, mask: Array | None) -> Cache:
    mask = jnp.ones(key.shape[:2], bool) if mask is None else mask
    place = (0, cache.length, 0, 0)
    return Cache(
        jax.lax.dynamic_update_slice(cache.keys, key, place),
        jax.lax.dynamic_update_slice(cache.values, value, place),
        jax.lax.dynamic_update_slice(cache.mask, mask, place[:2]),
        cache.length + key.shape[1],
    )


def _seen(
    start: Int[Array, ""], queries: int, places: int, window: int | None
) -> Bool[Array, "1 1 t s"]:
    query, key = (start + jnp.arange(queries))[:, None], jnp.arange(places)
    seen = key <= query
    return (seen if window is None else seen & (key > query - window))[None, None]
