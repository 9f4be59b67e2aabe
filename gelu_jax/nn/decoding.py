"""Decoding: one token after another through the key/value cache, greedy or sampled."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax.linen import get_logical_axis_rules
from jaxtyping import Array, Bool, Float, Int, Key

from gelu_jax.errors import Problem, check
from gelu_jax.nn import checks


def generate(
    model: Any,
    tokens: Int[Array, "b t"],
    num_tokens: int,
    *,
    key: Key[Array, ""] | None = None,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    end_token: int | None = None,
    cache: Any = None,
    **prompt: Any,
) -> Int[Array, "b n"]:
    """Continues a prompt: prefill, then a `jax.lax.scan` of one step per token.

    All of it is one program, compiled once for each shape of the prompt, ``num_tokens`` and
    ``top_k``: a second call with the same model, or with other weights in it, does not compile.

    Args:
      model: an NNX module with ``decode`` and, where no cache is given, ``empty_cache``, as
        `Transformer` has them.
      tokens: the prompt, (b, t).
      num_tokens: number n of tokens to generate.
      key: PRNG key, with which tokens are drawn by `sample`; None takes the most likely token.
      temperature: as in `sample`.
      top_k: as in `sample`.
      top_p: as in `sample`.
      end_token: a row that has produced it repeats it; None never ends a row.
      cache: the cache to begin with; None for an empty one of the length needed.
      **prompt: further arguments of ``model.decode`` for the prompt: ``mask`` (b, t), True at real
        tokens, for rows padded on the left; ``images`` for LLaVA.
    Returns:
      The tokens that follow the prompt, (b, n).
    Raises:
      ConfigError: an option has a wrong value, or the prompt is empty.
    """
    check(checks.positive(num_tokens=num_tokens))
    if key is not None:
        check(_sampling_problems(temperature, top_k, top_p))
    if tokens.shape[1] == 0:
        check([Problem("tokens", tokens.shape, "a prompt needs a token at least")])
    return _generate(
        model, tokens, key, temperature, top_p, end_token, cache, prompt,
        num_tokens=num_tokens, top_k=top_k, rules=tuple(get_logical_axis_rules()),
    )  # fmt: skip


# The rules are read while tracing (`with_sharding_constraint`), and so are part of the program.
@partial(jax.jit, static_argnames=("num_tokens", "top_k", "rules"))
def _generate(
    model: Any,
    tokens: Array,
    key: Array | None,
    temperature: float | Array,
    top_p: float | Array | None,
    end_token: int | Array | None,
    cache: Any,
    prompt: dict[str, Any],
    *,
    num_tokens: int,
    top_k: int | None,
    rules: Any,
) -> Array:
    del rules
    if cache is None:
        cache = model.empty_cache(tokens.shape[0], tokens.shape[1] + num_tokens - 1)
    pick = (
        _greedy
        if key is None
        else partial(_sample, temperature=temperature, top_k=top_k, top_p=top_p)
    )
    keys = jax.random.split(jax.random.key(0) if key is None else key, num_tokens)
    logits, cache = model.decode(tokens, cache, **prompt)
    token = pick(logits[:, -1], keys[0])

    def step(carry: tuple[Array, Any], key: Array) -> tuple[tuple[Array, Any], Array]:
        token, cache = carry
        logits, cache = model.decode(token[:, None], cache)
        following = pick(logits[:, -1], key)
        if end_token is not None:
            following = jnp.where(token == end_token, end_token, following)
        return (following, cache), token

    (last, _), earlier = jax.lax.scan(step, (token, cache), keys[1:])
    return jnp.concatenate([earlier.T, last[:, None]], axis=1)


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


def _sampling_problems(temperature: float, top_k: int | None, top_p: float | None):
    yield from checks.positive(temperature=temperature, top_k=top_k, top_p=top_p)
    if top_p is not None and top_p > 1:
        yield Problem("top_p", top_p, "must lie in (0, 1]")
