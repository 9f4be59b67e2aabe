"""Attention: multi-head, grouped-query or multi-query; full, causal or in a sliding window."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.export import is_symbolic_dim
from jax.sharding import PartitionSpec
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, Key

from gelu_jax.errors import Problem, check
from gelu_jax.nn import checks
from gelu_jax.nn.axes import (
    Axes,
    DotGeneral,
    Precision,
    einsum,
    flatten_tokens,
    gathered_along,
    is_explicit,
    matmul,
    sharded_as,
)
from gelu_jax.nn.blockwise import Inputs, exp_and_sum, over_query_blocks
from gelu_jax.nn.dropout import Rngs, Stochastic, dropout
from gelu_jax.nn.norm import Norm, NormConfig
from gelu_jax.nn.parameters import add_bias, bias, cast, constant, init_problems, kernel, wide_dtype
from gelu_jax.nn.position import (
    RotaryConfig,
    frequencies,
    frequencies_of_tokens,
    long_frequencies,
    rotated,
    token_positions,
)

Window = int | Int[Array, ""] | None

_CACHE_DTYPES = ("float32", "bfloat16", "float16", "float64", "float8_e4m3fn", "float8_e5m2")


class Cache(NamedTuple):
    """Keys and values of earlier tokens, in s slots per row.

    Attributes:
      keys: (b, s, g, k).
      values: (b, s, g, v).
      mask: (b, s), True where a slot holds a real token, False at padding and in empty slots.
      length: number of slots filled, from the first on; an integer scalar.
    """

    keys: Float[Array, "b s g k"]
    values: Float[Array, "b s g v"]
    mask: Bool[Array, "b s"]
    length: Int[Array, ""]


class LayerValues(NamedTuple):
    """What differs between the layers of a stack, as arrays, so that one program serves all.

    Attributes:
      window: a token attends to tokens closer than this alone.
      frequencies: of the rotary positions, (r/2,); 0 for a pair that is not rotated.
      magnitude: multiplies rotated queries and keys.
      normed: whether attention sees the normed stream, or else the stream itself; None where it
        does in all layers.
      long_frequencies: those in sequences longer than short_length, (r/2,); None where length does
        not matter in any layer.
      short_length: tokens of the longest sequence that `frequencies` hold for; None with them.
    """

    window: Int[Array, ""]
    frequencies: Float[Array, " r"]
    magnitude: Float[Array, ""]
    normed: Bool[Array, ""] | None = None
    long_frequencies: Float[Array, " r"] | None = None
    short_length: Int[Array, ""] | None = None


def attention(
    query: Float[Array, "b t h k"],
    key: Float[Array, "b s g k"],
    value: Float[Array, "b s g v"],
    *,
    causal: bool = True,
    window: int | None = None,
    mask: Bool[Array, "#b #h #t s"] | None = None,
    bias: Float[Array, "#b #h #t s"] | None = None,
    segment_ids: Int[Array, "b t"] | None = None,
    scale: float | None = None,
    soft_cap: float | None = None,
    sinks: Float[Array, " h"] | None = None,
    dropout_rate: float = 0.0,
    dropout_key: Key[Array, ""] | None = None,
    precision: Precision | None = None,
) -> Float[Array, "b t h v"]:
    """softmax(QKᵀ·scale + bias) V (Vaswani et al. 2017, equation 1), the softmax in float32.

    g key/value heads serve h query heads in order, h/g each (Ainslie et al. 2023): g = h is
    multi-head, g = 1 multi-query.

    Args:
      query: (b, t, h, k), of any floating dtype.
      key: (b, s, g, k).
      value: (b, s, g, v).
      causal: whether query i attends to keys j ≤ i alone.
      window: query i attends to keys with |i − j| < window alone; None for no limit.
      mask: (b or 1, h or 1, t or 1, s), bool, True where a query may attend.
      bias: added to the scores, (b or 1, h or 1, t or 1, s); −∞ where a query may not attend.
      segment_ids: (b, t), s = t: a query attends to keys of its own segment alone; None for no
        segments.
      scale: multiplies the scores; None for 1/√k.
      soft_cap: c, which turns the scaled scores s into c·tanh(s/c) (Gemma Team 2024b, section 2);
        None leaves them.
      sinks: one more score for every query of a head, (h,), of no key: the softmax over it and the
        keys leaves it out, so that its weights have a sum below 1 (gpt-oss model card 2025). None
        for none.
      dropout_rate: probability with which an entry of the softmax is zeroed.
      dropout_key: PRNG key of the dropout; None drops nothing. Masks are drawn again in the
        backward pass, so that none is kept.
      precision: "default", "high" or "highest", of the matrix products; None for JAX's own choice.
    Returns:
      An array (b, t, h, v) of the dtype of value. A query that may attend to no key gets zeros, and
      has no gradient.
    Raises:
      TypeError: the mask is not of bool.
      ValueError: mask or bias has not four axes.

    >>> q = k = v = jnp.ones((1, 3, 2, 4))
    >>> attention(q, k, v).shape
    (1, 3, 2, 4)
    """
    checks.mask(mask, "b h t s")
    checks.num_axes("b h t s", bias=bias)
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    wide = wide_dtype(query.dtype)
    product = partial(einsum, preferred_element_type=wide, precision=precision)
    sink = None if sinks is None else sinks.astype(wide).reshape(1, key.shape[2], -1, 1, 1)

    def attend(x: Inputs) -> Array:
        scores = product("bgrtk,bgsk->bgrts", x.query, x.key) * factor
        scores = scores if soft_cap is None else soft_cap * jnp.tanh(scores / soft_cap)
        scores = scores if x.bias is None else scores + x.bias.astype(wide)
        scores = scores if x.mask is None else jnp.where(x.mask, scores, -jnp.inf)
        e, total = exp_and_sum(scores, sink)  # divided last: V has fewer columns than e
        e = dropout(e, dropout_rate, x.dropout_key).astype(x.value.dtype)
        return (product("bgrts,bgsv->bgrtv", e, x.value) / total).astype(x.value.dtype)

    inputs = _by_groups(query, key, value, mask, bias, segment_ids, dropout_key)
    y = over_query_blocks(attend, inputs, causal=causal, window=window)
    return _merge_heads(jnp.moveaxis(y, 3, 1))


def _by_groups(
    query: Array,
    key: Array,
    value: Array,
    mask: Array | None,
    bias: Array | None,
    segment_ids: Array | None,
    dropout_key: Array | None,
) -> Inputs:
    g = key.shape[2]
    segments = None if segment_ids is None else segment_ids[:, None, None, None]
    return Inputs(
        jnp.moveaxis(_split_heads(query, g), 1, 3),
        jnp.moveaxis(key, 1, 2),
        jnp.moveaxis(value, 1, 2),
        None if mask is None else _by_group(mask, g),
        None if bias is None else _by_group(bias, g),
        None if segments is None else segments.mT,
        segments,
        dropout_key,
    )


def _split_heads(query: Float[Array, "b t h k"], g: int) -> Float[Array, "b t g r k"]:
    """(b, t, h, k) as (b, t, g, h/g, k): g is sharded as h was, or h/g where g is too short."""
    b, t, h, k = query.shape
    shape = (b, t, g, h // g, k)
    if not is_explicit(query):
        return query.reshape(shape)
    *places, of_h, of_k = jax.typeof(query).sharding.spec
    ways = jax.typeof(query).sharding.mesh.shape
    fits = of_h is not None and g % math.prod(ways[axis] for axis in jax.tree.leaves(of_h)) == 0
    heads = (of_h, None) if fits else (None, of_h)
    return query.reshape(shape, out_sharding=PartitionSpec(*places, *heads, of_k))


def _merge_heads(y: Float[Array, "b t g r k"]) -> Float[Array, "b t h k"]:
    """Undoes `_split_heads`."""
    b, t, g, r, k = y.shape
    if not is_explicit(y):
        return y.reshape(b, t, g * r, k)
    *places, of_g, of_r, of_k = jax.typeof(y).sharding.spec
    place = PartitionSpec(*places, of_r if of_g is None else of_g, of_k)
    return y.reshape((b, t, g * r, k), out_sharding=place)


def _by_group(x: Array, g: int) -> Array:
    """(b, h or 1, t, c) with the query heads split into the groups that share a key head."""
    b, h, t, c = x.shape
    return x[:, :, None] if h == 1 else x.reshape(b, g, h // g, t, c)


@dataclass(frozen=True)
class QKNormConfig:
    """RMSNorms of queries and keys before they are rotated (Dehghani et al. 2023, section 2.1).

    Attributes:
      over: "head" for a norm of each head's k entries (Qwen 3, Gemma 3), "heads" for one of all
        heads' entries together (OLMo 2).
      epsilon: added to the mean of squares.
      zero_centered: whether the parameter is the scale minus 1, as in Gemma's weights.

    Raises:
      ConfigError: a field has a wrong value.
    """

    over: Literal["head", "heads"] = "head"
    epsilon: float = 1e-6
    zero_centered: bool = False

    def __post_init__(self):
        checks.field_types(self)
        check(
            (
                *checks.one_of(("head", "heads"), over=self.over),
                *checks.small(epsilon=self.epsilon),
            )
        )


@dataclass(frozen=True)
class AttentionConfig:
    """What an attention layer is made of; `gelu_jax.nn.parameters` says how it is initialised.

    Attributes:
      d_model: width of input and output.
      num_heads: query heads h.
      num_kv_heads: key/value heads g, a divisor of num_heads; None for num_heads.
      head_dim: entries k of a head; None for d_model / num_heads.
      value_head_dim: entries v of a head's values; None for those of its keys.
      causal: whether a token attends to itself and earlier tokens alone.
      window: a token attends to tokens closer than this alone; None for no limit.
      rotary: rotary positions; None for none.
      scale: multiplies the scores; None for 1/√k.
      use_bias: whether query, key and value have a bias.
      out_bias: whether the output has a bias; None for use_bias.
      init_std: standard deviation of all kernels; None for 1/√fan_in each.
      output_init_scale: multiplies the standard deviation of `w_out`.
      dtype: dtype that the layer computes in.
      param_dtype: dtype that the parameters are stored in.
      kernel_init: initializer of all kernels, of flax or JAX, in the place of init_std; it is given
        the shape (inputs, outputs). None for the normal distribution.
      bias_init: initializer of all biases; None for zeros.
      qk_norm: norms of queries and keys; None for none.
      soft_cap: bound of the scores, as in `attention`; None for none.
      sinks: whether each head has a learned score of no key, as in `attention`.
      key_bias: whether the key has a bias; None for use_bias.
      dropout_rate: dropout of the softmax, in [0, 1).
      cache_dtype: dtype that `empty_cache` holds keys and values in, also a float8; what lies
        beyond its range is held as its end. None for dtype.
      precision: of all matrix products, as in `attention`.
      dot_general: called for the products with the four kernels in the place of
        `jax.lax.dot_general`, as in flax's layers; None for that.

    Raises:
      ConfigError: a field has a wrong value.
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
    kernel_init: nnx.Initializer | None = None
    bias_init: nnx.Initializer | None = None
    qk_norm: QKNormConfig | None = None
    soft_cap: float | None = None
    value_head_dim: int | None = None
    dropout_rate: float = 0.0
    cache_dtype: DTypeLike | None = None
    precision: Precision | None = None
    dot_general: DotGeneral | None = None
    sinks: bool = False
    key_bias: bool | None = None

    def __post_init__(self):
        checks.field_types(self)
        check(self._problems())

    def _problems(self) -> Iterator[Problem]:
        yield from checks.positive(
            soft_cap=self.soft_cap,
            d_model=self.d_model,
            num_heads=self.num_heads,
            num_kv_heads=self.num_kv_heads,
            head_dim=self.head_dim,
            value_head_dim=self.value_head_dim,
            window=self.window,
            scale=self.scale,
            init_std=self.init_std,
        )
        yield from checks.floating(dtype=self.dtype, param_dtype=self.param_dtype)
        yield from init_problems(self.init_std, self.kernel_init)
        yield from checks.below_one(dropout_rate=self.dropout_rate)
        yield from checks.precision(self.precision)
        if self.cache_dtype is not None:
            name = checks.dtype_name(self.cache_dtype)
            yield from checks.one_of(_CACHE_DTYPES, cache_dtype=name)
        if self.head_dim is None:
            yield from checks.divides(self.d_model, "d_model", num_heads=self.num_heads)
        yield from checks.divides(self.num_heads, "num_heads", num_kv_heads=self.num_kv_heads)
        if self.rotary is not None and self.num_heads > 0:
            yield from self.rotary.problems_in_head(self.head_size, "rotary")

    @property
    def kv_heads(self) -> int:
        """Number of key/value heads g."""
        return self.num_kv_heads or self.num_heads

    @property
    def head_size(self) -> int:
        """Entries k of one head."""
        return self.head_dim or self.d_model // self.num_heads

    @property
    def value_size(self) -> int:
        """Entries v of one head's values."""
        return self.value_head_dim or self.head_size


class Attention(Stochastic):
    """The layer as an NNX module.

    Parameters: ``w_query`` (d, h, k), ``w_key`` (d, g, k), ``w_value`` (d, g, v) and ``w_out``
    (h, v, d); their biases ``b_query``, ``b_key``, ``b_value`` and ``b_out``, or None;
    ``query_norm`` and ``key_norm``, or None; ``sinks`` (h,), or None.

    Args:
      config: the layer's config.
      rngs: source of the initial values.

    >>> layer = Attention(AttentionConfig(8, num_heads=4, num_kv_heads=1), rngs=nnx.Rngs(0))
    >>> layer(jnp.ones((1, 3, 8))).shape
    (1, 3, 8)
    """

    axes: ClassVar[Axes] = {
        "w_query": "d h k", "w_key": "d g k", "w_value": "d g k", "w_out": "h k d",
        "b_query": "h k", "b_key": "g k", "b_value": "g k", "b_out": "d", "sinks": "h",
    }  # fmt: skip

    def __init__(self, config: AttentionConfig, *, rngs: nnx.Rngs):
        self.config = config
        d, std, dtype = config.d_model, config.init_std, config.param_dtype
        h, g, k, v = config.num_heads, config.kv_heads, config.head_size, config.value_size
        axes, make = self.axes, partial(kernel, rngs, std=std, dtype=dtype, init=config.kernel_init)
        scale = config.output_init_scale
        self.w_query = make((d, h, k), fan_in=d, axes=axes["w_query"])
        self.w_key = make((d, g, k), fan_in=d, axes=axes["w_key"])
        self.w_value = make((d, g, v), fan_in=d, axes=axes["w_value"])
        self.w_out = make((h, v, d), fan_in=h * v, scale=scale, axes=axes["w_out"])
        has_bias, start = config.use_bias, partial(bias, rngs, dtype=dtype, init=config.bias_init)
        self.b_query = start((h, k), axes=axes["b_query"]) if has_bias else None
        key_bias = has_bias if config.key_bias is None else config.key_bias
        self.b_key = start((g, k), axes=axes["b_key"]) if key_bias else None
        self.b_value = start((g, v), axes=axes["b_value"]) if has_bias else None
        out_bias = has_bias if config.out_bias is None else config.out_bias
        self.b_out = start((d,), axes=axes["b_out"]) if out_bias else None
        self.query_norm = _qk_norm(config, h, rngs=rngs)
        self.key_norm = _qk_norm(config, g, rngs=rngs)
        self.sinks = constant(0.0, (h,), dtype, axes["sinks"]) if config.sinks else None

    def __call__(
        self,
        x: Float[Array, "b t d"],
        deterministic: bool | None = None,
        *,
        mask: Bool[Array, "b t"] | None = None,
        positions: Int[Array, "#b t"] | None = None,
        segment_ids: Int[Array, "b t"] | None = None,
        rngs: Rngs | None = None,
        dropout_key: Key[Array, ""] | None = None,
    ) -> Float[Array, "b t d"]:
        """Attends within x.

        Args:
          x: (b, t, d), of any floating dtype.
          deterministic: whether dropout is off; None for what `nnx.Module.train` and
            `nnx.Module.eval` set last, and on in a new module.
          mask: (b, t), True at real tokens, False at padding; None for no padding.
          positions: as in `attend`.
          segment_ids: as in `attend`.
          rngs: gives the dropout's key where `dropout_key` is None; its stream is "dropout".
          dropout_key: PRNG key of the dropout.
        Returns:
          An array (b, t, d) of ``config.dtype``.
        Raises:
          ValueError: dropout is on, and there is no key.
        """
        key = self.key_of_call(self.config.dropout_rate, deterministic, rngs, dropout_key)
        place: dict[str, Any] = {"mask": mask, "positions": positions}
        place["segment_ids"] = segment_ids
        return self.attend(x, **place, deterministic=key is None, dropout_key=key)[0]

    def attend(
        self,
        x: Float[Array, "b t d"],
        cache: Cache | None = None,
        *,
        mask: Bool[Array, "b t"] | None = None,
        positions: Int[Array, "#b t"] | None = None,
        segment_ids: Int[Array, "b t"] | None = None,
        bias: Float[Array, "#b #h t s"] | None = None,
        values: LayerValues | None = None,
        deterministic: bool | None = None,
        dropout_key: Key[Array, ""] | None = None,
    ) -> tuple[Float[Array, "b t d"], Cache | None]:
        """Attends within x, and to earlier tokens in a cache.

        Whether a cache that is partly filled has slots left for x is not checked: a full one
        overwrites its last slots.

        Args:
          x: (b, t, d), of any floating dtype.
          cache: keys and values of earlier tokens; None attends within x alone.
          mask: (b, t), True at real tokens, False at padding; None for no padding.
          positions: by which queries and keys are rotated, (b or 1, t); None for the number of real
            tokens before each. Who sees whom is a matter of order, whatever they are.
          segment_ids: (b, t), which documents the tokens are of: a token attends to those of its
            own alone, and positions begin again with each; None for one document in each row.
          bias: added to the scores, (b or 1, h or 1, t, s), where s counts the cache's slots.
          values: window and rotary positions of this layer in place of those of the config.
          deterministic: whether dropout is off, as in `__call__`.
          dropout_key: PRNG key of the dropout.
        Returns:
          An array (b, t, d) of ``config.dtype``; and the cache with the keys and values of x
          added, or None.
        Raises:
          TypeError: the mask is not of bool.
          ValueError: the mask has another shape than (b, t); the attention is not causal, and
            there is a cache; the cache has fewer than t slots; there are a cache and segments; or
            dropout is on without a key.
        """
        c, t = self.config, x.shape[1]
        checks.mask(mask, "b t", x.shape[:2])
        if cache is not None:
            _check_cache(c, cache, t, segment_ids)
        dropout_key = self.key_of_call(c.dropout_rate, deterministic, None, dropout_key)
        if positions is None:
            earlier = None if cache is None else cache.mask
            positions = token_positions(t, mask, earlier, segment_ids)
        turn = self._turn(positions, segment_ids, values)
        query, key, value = self._query_key_value(x, turn)
        fixed, moving = (c.window, None) if values is None else (None, values.window)
        if cache is None:
            visible = _visible_tokens(mask, t, moving)
            order = {"causal": c.causal, "window": fixed, "segment_ids": segment_ids}
        else:
            visible = _visible_slots(cache, t, fixed if moving is None else moving)
            cache = _extend(cache, key, value, mask)
            key, value = cache.keys.astype(c.dtype), cache.values.astype(c.dtype)
            visible = visible & cache.mask[:, None, None, :]
            order = {"causal": False}
        y = self._attention(query, key, value, dropout_key, mask=visible, bias=bias, **order)
        return self._out(y), cache

    def project_kv(
        self, y: Float[Array, "b s d"], *, mask: Bool[Array, "b s"] | None = None
    ) -> Cache:
        """Projects another sequence to keys and values, for `cross_attend`.

        Args:
          y: the other sequence, such as an encoder's output, (b, s, d).
          mask: (b, s), True at real tokens, False at padding; None for no padding.
        Returns:
          Keys and values of all s tokens.
        Raises:
          TypeError: the mask is not of bool.
          ValueError: the mask has another shape than (b, s).
        """
        checks.mask(mask, "b s", y.shape[:2])
        y = y.astype(self.config.dtype)
        heads = partial(self._heads, y.shape[:2], flatten_tokens(y))
        key = heads(self.w_key, self.b_key, self.key_norm)
        value = heads(self.w_value, self.b_value)
        mask = jnp.ones(y.shape[:2], bool) if mask is None else mask
        return Cache(key, value, mask, jnp.asarray(y.shape[1], jnp.int32))

    def cross_attend(
        self,
        x: Float[Array, "b t d"],
        memory: Cache,
        *,
        deterministic: bool | None = None,
        dropout_key: Key[Array, ""] | None = None,
    ) -> Float[Array, "b t d"]:
        """Attends to another sequence alone, to all of it (Vaswani et al. 2017, section 3.2.3).

        Args:
          x: (b, t, d), of any floating dtype.
          memory: keys and values of the other sequence, as `project_kv` returns them.
          deterministic: whether dropout is off, as in `__call__`.
          dropout_key: PRNG key of the dropout.
        Returns:
          An array (b, t, d) of ``config.dtype``.
        Raises:
          ValueError: dropout is on, and there is no key.
        """
        c = self.config
        dropout_key = self.key_of_call(c.dropout_rate, deterministic, None, dropout_key)
        x = x.astype(c.dtype)
        query = self._heads(
            x.shape[:2], flatten_tokens(x), self.w_query, self.b_query, self.query_norm
        )
        visible = memory.mask[:, None, None, :]
        y = self._attention(
            query, memory.keys, memory.values, dropout_key, mask=visible, causal=False
        )
        return self._out(y)

    def _query_key_value(
        self, x: Array, turn: Callable[[Array], Array]
    ) -> tuple[Array, Array, Array]:
        x = x.astype(self.config.dtype)
        heads = partial(self._heads, x.shape[:2], flatten_tokens(x))
        query = turn(heads(self.w_query, self.b_query, self.query_norm))
        key = turn(heads(self.w_key, self.b_key, self.key_norm))
        return query, key, heads(self.w_value, self.b_value)

    def _attention(
        self, query: Array, key: Array, value: Array, dropout_key: Array | None, **order: Any
    ) -> Array:
        c = self.config
        drop: dict[str, Any] = {"dropout_rate": c.dropout_rate, "dropout_key": dropout_key}
        options: dict[str, Any] = {"scale": c.scale, "soft_cap": c.soft_cap}
        options["sinks"] = None if self.sinks is None else cast(self.sinks, wide_dtype(c.dtype))
        return attention(query, key, value, **order, **options, **drop, precision=c.precision)

    def _heads(
        self,
        tokens: tuple[int, ...],
        x: Array,
        w: nnx.Param[Array],
        b: nnx.Param[Array] | None,
        norm: Norm | None = None,
    ) -> Array:
        y = self._product(x, w).reshape(*tokens, *w.shape[1:])
        y = add_bias(y, None if b is None else cast(b, self.config.dtype))
        if norm is None:
            return y
        d = norm.config.d_model  # of each head, or of all together
        normed = y.reshape(*y.shape[:2], y.shape[2] * y.shape[3] // d, d)
        return norm(normed).reshape(y.shape)

    def _product(self, x: Array, w: nnx.Param[Array], *, features: int = 1) -> Array:
        c = self.config
        options: dict[str, Any] = {"precision": c.precision, "dot_general": c.dot_general}
        return matmul(x, cast(w, c.dtype), features=features, **options)

    def _turn(
        self, positions: Array, segment_ids: Array | None, values: LayerValues | None
    ) -> Callable[[Array], Array]:
        """The rotation of queries and keys, by the config or by the values of this layer."""
        rotary, k = self.config.rotary, self.config.head_size
        if values is not None:
            found, magnitude = values.frequencies, values.magnitude
            longer, short_length = values.long_frequencies, values.short_length
        elif rotary is not None:
            found, magnitude = frequencies(k, rotary)
            longer, short_length = long_frequencies(k, rotary), rotary.short_length
        else:
            return lambda y: y
        if longer is not None and short_length is not None:
            found = frequencies_of_tokens(found, longer, short_length, positions, segment_ids)
        return lambda y: rotated(y, positions, found, magnitude)

    def _out(self, y: Array) -> Array:
        bias = None if self.b_out is None else cast(self.b_out, self.config.dtype)
        return add_bias(self._product(y, self.w_out, features=2), bias)

    def empty_cache(self, batch_size: int, length: int) -> Cache:
        """An empty cache.

        Args:
          batch_size: rows b.
          length: slots per row.
        Returns:
          A cache with every slot empty, in ``config.cache_dtype`` or else ``config.dtype``.
        """
        c = self.config
        slots, dtype = (batch_size, length, c.kv_heads), c.cache_dtype or c.dtype
        keys, values = (jnp.zeros((*slots, k), dtype) for k in (c.head_size, c.value_size))
        empty = jnp.zeros((batch_size, length), bool)
        return Cache(keys, values, empty, jnp.zeros((), jnp.int32))


def _check_cache(
    config: AttentionConfig, cache: Cache, num_tokens: int, segment_ids: Array | None
) -> None:
    if segment_ids is not None:
        raise ValueError("segment_ids: a cache holds one document in each row")
    if not config.causal:
        raise ValueError("cache: attention with causal = False has none, as it sees later tokens")
    slots = cache.keys.shape[1]
    if not is_symbolic_dim(num_tokens) and not is_symbolic_dim(slots) and num_tokens > slots:
        raise ValueError(f"cache: {slots} slots for {num_tokens} tokens")


def _extend(cache: Cache, key: Array, value: Array, mask: Array | None) -> Cache:
    mask = jnp.ones(key.shape[:2], bool) if mask is None else mask

    def extended(held: Array, new: Array) -> Array:
        new = gathered_along(new, 1)  # where a new token goes is known at run time alone
        start = (0, cache.length, 0, 0)[: new.ndim]
        return jax.lax.dynamic_update_slice(sharded_as(new, held), new, start)

    return Cache(
        extended(cache.keys, _held_as(cache.keys.dtype, key)),
        extended(cache.values, _held_as(cache.values.dtype, value)),
        extended(cache.mask, mask),
        cache.length + key.shape[1],
    )


def _held_as(dtype: DTypeLike, x: Array) -> Array:
    """In another dtype, in which float8_e4m3fn has no ∞ for what lies beyond its range."""
    if x.dtype == dtype:
        return x
    ends = jnp.finfo(dtype)
    return jnp.clip(x, float(ends.min), float(ends.max)).astype(dtype)


def _visible_tokens(
    mask: Bool[Array, "b t"] | None, length: int, window: Int[Array, ""] | None
) -> Bool[Array, "#b 1 #t t"] | None:
    """Which are real and, where the window is an array, near."""
    visible = None if mask is None else mask[:, None, None, :]
    if window is None:
        return visible
    places = jnp.arange(length)
    near = (abs(places[None] - places[:, None]) < window)[None, None]
    return near if visible is None else near & visible


def _visible_slots(cache: Cache, queries: int, window: Window) -> Bool[Array, "1 1 t s"]:
    """Which of the slots, those of the queries included, come no later and are near."""
    query, key = (
        (cache.length + jnp.arange(queries))[:, None],
        jnp.arange(cache.keys.shape[1])[None],
    )
    visible = key <= query
    return (visible if window is None else visible & (key > query - window))[None, None]


def _qk_norm(config: AttentionConfig, heads: int, *, rngs: nnx.Rngs) -> Norm | None:
    norm = config.qk_norm
    if norm is None:
        return None
    return Norm(
        NormConfig(
            config.head_size * (heads if norm.over == "heads" else 1),
            kind="rms",
            epsilon=norm.epsilon,
            zero_centered=norm.zero_centered,
            dtype=config.dtype,
            param_dtype=config.param_dtype,
        ),
        rngs=rngs,
    )
