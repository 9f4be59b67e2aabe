"""Text from a decoder: tokens drawn one at a time through the key/value cache."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from gelu_jax.nn.attention import Cache
from gelu_jax.nn.transformer import Transformer


def filter_logits(
    logits: Float[Array, "b v"], *, top_k: int | None = None, top_p: float | None = None
) -> Float[Array, "b v"]:
    """Sets to −∞ all but the k likeliest tokens, and all outside the nucleus of mass p.

    The nucleus is the smallest set of likeliest tokens whose probability reaches p (Holtzman et
    al. 2020, equation 2); it holds at least one token.
    """
    descending = -jnp.sort(-logits)
    floor = jnp.full_like(logits[:, :1], -jnp.inf)
    if top_k is not None:
        floor = descending[:, min(top_k, logits.shape[-1]) - 1][:, None]
    if top_p is not None:
        before = jnp.cumsum(jax.nn.softmax(descending), -1) - jax.nn.softmax(descending)
        nucleus = jnp.where(before < top_p, descending, jnp.inf).min(-1, keepdims=True)
        floor = jnp.maximum(floor, nucleus)
    return jnp.where(logits < floor, -jnp.inf, logits)


@partial(jax.jit, static_argnames=("length", "temperature", "top_k", "top_p"))
def generate(
    model: Transformer,
    prompt: Int[Array, "b t"],
    key: Key[Array, ""],
    *,
    length: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
) -> Int[Array, "b n"]:
    """`length` tokens that continue each prompt; temperature 0 takes the likeliest token.

    The prompt is read in one call, then each token in one step, from softmax(logits/temperature)
    after `filter_logits`.
    """

    def draw(logits: Array, key: Array) -> Array:
        if temperature == 0.0:
            return logits.argmax(-1)
        kept = filter_logits(logits / temperature, top_k=top_k, top_p=top_p)
        return jax.random.categorical(key, kept)

    def step(carry: tuple[Array, Cache], key: Array):
        logits, cache = carry
        token = draw(logits, key)
        logits, cache = model.decode(token[:, None], cache)
        return (logits[:, -1], cache), token

    cache = model.empty_cache(prompt.shape[0], prompt.shape[1] + length)
    logits, cache = model.decode(prompt, cache)
    _, tokens = jax.lax.scan(step, (logits[:, -1], cache), jax.random.split(key, length))
    return tokens.T
