"""Decoding: one token after another through the key/value cache, greedy or sampled."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int, Key

from gelu_jax.errors import Problem, check
from gelu_jax.nn import checks
from gelu_jax.nn.compiled import compiled_once


def generate(
    model: Any,
    tokens: Int[Array, "b t"],
    num_tokens: int,
    *,
    key: Key[Array, ""] | None = None,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    end_token: int | Sequence[int] | None = None,
    cache: Any = None,
    **prompt: Any,
) -> Int[Array, "b n"]:
    """Continues a prompt: prefill, then a `jax.lax.scan` of one step per token.

    All of it is one program, compiled once for each shape of the prompt and choice of options; the
    weights are its arguments.

    Under `LongRopeScaling` the rotation of all tokens of a row changes where it outgrows a length.
    At that step the cache is computed anew from all tokens, so that each new one is what the whole
    row gives without a cache.

    Args:
      model: an NNX module with ``decode`` and, where no cache is given, ``empty_cache``, as
        `Transformer` has them; where it has ``unstacked`` as well, that gives the model and the
        cache of the loop.
      tokens: the prompt, (b, t).
      num_tokens: number n of tokens to generate.
      key: PRNG key, with which tokens are drawn by `sample`; None takes the most likely token.
      temperature: as in `sample`; None for 1.
      top_k: as in `sample`.
      top_p: as in `sample`.
      end_token: a row that has produced it, or one of several, repeats it; None never ends a row.
      cache: the cache to begin with; None for an empty one of the length needed.
      **prompt: further arguments of ``model.decode`` for the prompt: ``mask`` (b, t), True at real
        tokens, for rows padded on either side; ``images`` for LLaVA.
    Returns:
      The tokens that follow the prompt, (b, n).
    Raises:
      ConfigError: an option has a wrong value, the prompt is empty, a token is not in the
        vocabulary (not under `jax.jit`), the model has no positions for so many tokens, or a
        sequence in `cache` would have to be computed anew (not under `jax.jit`).
    """
    check(_option_problems(num_tokens, key, temperature, top_k, top_p))
    if tokens.shape[1] == 0:
        check([Problem("tokens", tokens.shape, "a prompt needs a token at least")])
    check(_token_problems(model, tokens))
    if (images := prompt.get("images")) is not None:
        model.check_images(tokens, images)
    is_whole = cache is None and prompt.get("mask") is None  # every row is as long as the prompt
    if cache is None:
        cache = model.empty_cache(tokens.shape[0], tokens.shape[1] + num_tokens - 1)
    else:
        check(_renewal_problems(model, tokens, num_tokens, cache, prompt.get("mask")))
    ends = (end_token,) if isinstance(end_token, int) else tuple(end_token or ())
    temperature = 1.0 if temperature is None else temperature
    return _generate(
        model, tokens, key, temperature, top_p, ends, cache, prompt,
        num_tokens=num_tokens, top_k=top_k,
        outgrown=_outgrown(model, cache, tokens.shape[1] if is_whole else 0),
    )  # fmt: skip


@compiled_once("num_tokens", "top_k", "outgrown")
def _generate(
    model: Any,
    tokens: Array,
    key: Array | None,
    temperature: float | Array,
    top_p: float | Array | None,
    ends: Sequence[int | Array],
    cache: Any,
    prompt: dict[str, Any],
    *,
    num_tokens: int,
    top_k: int | None,
    outgrown: tuple[int, ...],
) -> Array:
    pick = (
        _greedy
        if key is None
        else partial(_sample, temperature=temperature, top_k=top_k, top_p=top_p)
    )
    keys = jax.random.split(jax.random.key(0) if key is None else key, num_tokens)
    if prompt.get("mask") is not None:
        tokens, prompt = _padded_on_the_left(tokens, prompt)
    text = _placed(tokens, jnp.zeros(cache.mask.shape[-2:], int), cache) if outgrown else None
    logits, cache = model.decode(tokens, cache, **prompt)
    token = pick(logits[:, -1], keys[0])
    one_by_one = model
    if text is None and hasattr(model, "unstacked"):
        one_by_one, cache = model.unstacked(cache)

    def step(carry: tuple[Array, Any, Any], key: Array) -> tuple[tuple[Array, Any, Any], Array]:
        token, cache, text = carry
        if text is not None:
            text = _placed(token[:, None], text, cache)
            cache = _renewed(model, cache, text, prompt, outgrown)
        logits, cache = one_by_one.decode(token[:, None], cache)
        following = pick(logits[:, -1], key)
        if ends:
            following = jnp.where(jnp.isin(token, jnp.array(ends)), token, following)
        return (following, cache, text), token

    (last, *_), earlier = jax.lax.scan(step, (token, cache, text), keys[1:])
    return jnp.concatenate([earlier.T, last[:, None]], axis=1)


def _placed(tokens: Array, text: Array, cache: Any) -> Array:
    """The text with tokens in the slots that the cache puts them into."""
    return jax.lax.dynamic_update_slice(text, tokens.astype(text.dtype), (0, cache.length[0]))


def _renewed(
    model: Any, cache: Any, text: Array, prompt: dict[str, Any], outgrown: tuple[int, ...]
) -> Any:
    """The cache before a token with which a row outgrows a length: keys and values of all anew."""
    seen = cache.mask[0] | (jnp.arange(text.shape[1]) == cache.length[0])[None]
    lengths = seen.sum(1)[:, None]

    def anew() -> Any:
        _, made = model.decode(text, model.empty_cache(*text.shape), **prompt | {"mask": seen})
        return made._replace(mask=cache.mask, length=cache.length)

    return jax.lax.cond((lengths == jnp.array(outgrown)[None] + 1).any(), anew, lambda: cache)


def _padded_on_the_left(tokens: Array, prompt: dict[str, Any]) -> tuple[Array, dict[str, Any]]:
    """Rolls each row so that it ends in a real token: padding on the right comes to the left."""
    mask = prompt["mask"]
    trailing = jnp.argmax(mask[:, ::-1], axis=1)[:, None]
    source = (jnp.arange(mask.shape[1])[None] - trailing) % mask.shape[1]
    rolled = partial(jnp.take_along_axis, indices=source, axis=1)
    return rolled(tokens), prompt | {"mask": rolled(mask)}


def sample(
    logits: Float[Array, "b v"],
    key: Key[Array, ""],
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
) -> Int[Array, " b"]:
    """Draws one token per row from softmax(logits/temperature), restricted to top_k, then top_p.

    Tokens whose logits are equal at the edge are kept together.

    Args:
      logits: (b, v), of any floating dtype.
      key: PRNG key.
      temperature: divides the logits.
      top_k: only the k most likely tokens; None for all.
      top_p: only the most likely tokens whose probabilities sum to p, the one that crosses p
        included (Holtzman et al. 2020, section 3.1); None for all.
    Returns:
      Tokens, (b,).
    Raises:
      ConfigError: an option has a wrong value.

    >>> logits = jnp.array([[0.0, 3.0, 2.0, -1.0]])
    >>> int(sample(logits, jax.random.key(0), top_k=1)[0])
    1
    """
    check(_sampling_problems(temperature, top_k, top_p))
    return _sample(logits, key, temperature, top_k, top_p)


def _sample(
    logits: Array,
    key: Array,
    temperature: float | Array,
    top_k: int | None,
    top_p: float | Array | None,
) -> Array:
    logits = logits.astype(jnp.float32) / temperature
    if top_k is not None:
        least = jax.lax.top_k(logits, min(top_k, logits.shape[-1]))[0][:, -1:]
        logits = jnp.where(logits < least, -jnp.inf, logits)
    if top_p is not None:
        logits = jnp.where(_in_nucleus(logits, top_p), logits, -jnp.inf)
    return jax.random.categorical(key, logits)


def _in_nucleus(logits: Float[Array, "b v"], top_p: float | Array) -> Bool[Array, "b v"]:
    ordered = jnp.sort(logits, axis=-1, descending=True)
    before = jnp.cumsum(jax.nn.softmax(ordered), axis=-1) - jax.nn.softmax(ordered)
    least = jnp.where(before < top_p, ordered, jnp.inf).min(-1, keepdims=True)
    return logits >= least


def _greedy(logits: Float[Array, "b v"], key: Key[Array, ""]) -> Int[Array, " b"]:
    del key
    return jnp.argmax(logits, axis=-1)


def _option_problems(
    num_tokens: int,
    key: Array | None,
    temperature: float | None,
    top_k: int | None,
    top_p: float | None,
) -> Iterator[Problem]:
    yield from checks.positive(num_tokens=num_tokens)
    yield from _sampling_problems(temperature, top_k, top_p)
    if key is None:
        options = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
        for name, value in options.items():
            if value is not None:
                yield Problem(name, value, "needs a key to draw with; without one, leave it out")


def _sampling_problems(
    temperature: float | None, top_k: int | None, top_p: float | None
) -> Iterator[Problem]:
    yield from checks.positive(temperature=temperature, top_k=top_k, top_p=top_p)
    if top_p is not None and top_p > 1:
        yield Problem("top_p", top_p, "must lie in (0, 1]")


def _short_lengths(model: Any) -> tuple[int, ...]:
    config = getattr(model, "config", None)
    return getattr(getattr(config, "language", config), "short_lengths", ())


def _outgrown(model: Any, cache: Any, start: int) -> tuple[int, ...]:
    """The lengths that a row may outgrow while it is decoded, from `start` tokens on."""
    return tuple(n for n in _short_lengths(model) if start <= n < cache.mask.shape[-1])


def _renewal_problems(
    model: Any, tokens: Array, num_tokens: int, cache: Any, mask: Array | None
) -> Iterator[Problem]:
    """Rows whose earlier tokens are in the cache alone, and would be needed."""
    lengths = _short_lengths(model)
    if not lengths or any(isinstance(leaf, Tracer) for leaf in (tokens, cache.mask, mask)):
        return
    before = np.asarray(cache.mask)[0].sum(1)
    after = before + (tokens.shape[1] if mask is None else np.asarray(mask).sum(1)) + num_tokens - 1
    for length in lengths:
        if ((before > 0) & (before <= length) & (length < after)).any():
            reason = f"rotary frequencies change beyond {length} tokens: give all as the prompt"
            yield Problem("cache", f"{int(before.max())} tokens", reason)


def _token_problems(model: Any, tokens: Array) -> Iterator[Problem]:
    """Tokens that are not in the vocabulary; not under `jax.jit`, where they are not known."""
    config = getattr(model, "config", None)
    size = getattr(getattr(config, "language", config), "vocab_size", None)
    if size is None or isinstance(tokens, Tracer) or tokens.size == 0:
        return
    known = np.asarray(tokens)
    real = known[known != getattr(config, "image_token", None)]
    for token in {int(real.min(initial=0)), int(real.max(initial=0))}:
        if not 0 <= token < size:
            yield Problem("tokens", token, f"must lie in 0..{size - 1}")
