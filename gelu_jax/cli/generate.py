"""generate: text from a trained language model."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp

from gelu_jax.cli.arguments import Finished
from gelu_jax.cli.configs import make_importable
from gelu_jax.cli.failures import check_backend
from gelu_jax.errors import ConfigError, Problem, check
from gelu_jax.nn import checks
from gelu_jax.nn.decoding import generate
from gelu_jax.nn.transformer import Transformer
from gelu_jax.runs.execution import find_model, load_model
from gelu_jax.training.config import read_config
from gelu_jax.training.data.codec import codec
from gelu_jax.training.trainer import TrainConfig


def generate_command(
    run: Finished,
    prompt: str = "def ",
    length: int = 256,
    temperature: float = 0.8,
    top_k: int | None = None,
    top_p: float | None = None,
    arm: str | None = None,
    tokenizer: Path | None = None,
    seed: int = 0,
    best: bool = False,
) -> None:
    """Print text that a trained language model continues a prompt with.

    Args:
        run: the directory of a run or comparison, such as runs/byte_lm.
        prompt: what the text begins with.
        length: how many tokens to draw: bytes, where it was trained on bytes.
        temperature: below 1 keeps to what is likely.
        top_k: draw among so many likeliest bytes only.
        top_p: draw among the likeliest bytes that together have this probability.
        arm: which arm of a comparison; the first by default.
        tokenizer: of a run on tokens; the corpus's own by default.
        seed: of the draws.
        best: the state with the lowest validation loss, where the config had keep_best.
    """
    check([Problem("prompt", prompt, "must not be empty")] if not prompt else [])
    check(checks.positive(length=length))
    check_backend()
    home = find_model(run, arm)
    make_importable(run)
    model = load_model(home, best=best)
    if not isinstance(model, Transformer):
        raise ConfigError([Problem("run", run, "holds a classifier, not a language model")])
    text = codec(read_config(home / "config.yaml", TrainConfig).data, tokenizer)
    written = text.encode(prompt)
    check(_strangers(model, written, tokenizer))
    _check_length(model, len(written), length)
    draw = partial(generate, temperature=temperature, top_k=top_k, top_p=top_p)
    tokens = jax.jit(draw, static_argnums=2)(
        model, jnp.asarray([written]), length, key=jax.random.key(seed)
    )
    print(text.decode(written + tokens[0].tolist()))


def _strangers(
    model: Transformer, written: Sequence[int], tokenizer: Path | None
) -> Iterator[Problem]:
    if not written:
        yield Problem("prompt", "", "has no token in this tokenizer")
    elif (worst := max(written)) >= (size := model.config.vocab_size):
        yield Problem("tokenizer", tokenizer, f"makes token {worst}, the model knows {size}")


def _check_length(model: Transformer, prompt: int, length: int) -> None:
    places = model.config.max_positions
    if places is not None and prompt + length > places:
        reason = f"the model has {places} positions, the prompt takes {prompt}"
        best = max(1, places - prompt)
        raise ConfigError([Problem("length", length, f"{reason}; nearest: {best}")])
