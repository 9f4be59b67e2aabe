"""Failures that can be foreseen: one line and an exit code each. Others keep their traceback."""

import re
from typing import NamedTuple

import jax

from gelu_jax.errors import ABSENT, ConfigError, Problem


class Failure(NamedTuple):
    """What is printed for an exception, and the exit code.

    Attributes:
      line: for standard error.
      code: of the process.
    """

    line: str
    code: int


def failure(error: Exception) -> Failure | None:
    """What a foreseeable exception amounts to.

    Args:
      error: what a command raised.

    Returns:
      The failure: code 2 where the input is wrong, 1 where the machine failed; None for an
      exception that nobody expected.
    """
    match error:
        case ConfigError():
            return Failure(str(error), 2)
        case OSError():
            reason = (error.strerror or str(error)).lower()
            return Failure(f"{error.filename or 'disk'}: {reason}", 1)
        case MemoryError():
            return Failure(_out_of_memory(str(error)), 1)
        case jax.errors.JaxRuntimeError() if "RESOURCE_EXHAUSTED" in str(error):
            return Failure(_out_of_memory(str(error)), 1)
        case Exception() if type(error) is Exception and "Missing [UNK] token" in str(error):
            reason = (
                "the text has words that are not in its vocabulary, and it has no token for them"
            )
            return Failure(str(Problem("tokenizer", ABSENT, reason)), 2)  # as tokenizers raises it
        case _:
            return None


def _out_of_memory(text: str) -> str:
    asked = re.search(r"allocat\w* (\d+) bytes", text)
    size = f" ({int(asked[1]) / 2**30:.1f} GiB asked for at once)" if asked else ""
    reduce = "reduce batch_size, the model's width or depth, or data.context; `plan` counts bytes"
    return f"out of memory{size}: {reduce}"


def check_backend() -> None:
    """Finds the devices that a command is to run on.

    Raises:
      ConfigError: JAX_PLATFORMS names what is not here.
    """
    try:
        jax.devices()
    except (AssertionError, RuntimeError) as error:  # it asserts that it has found any
        asked = jax.config.jax_platforms  # pyright: ignore[reportAttributeAccessIssue]
        reason = str(error).partition("\n")[0] or "no such device here"
        value = asked if asked else ABSENT
        raise ConfigError([Problem("JAX_PLATFORMS", value, reason)]) from None
