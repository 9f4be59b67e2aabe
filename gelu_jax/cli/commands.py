"""All commands, and what their errors look like."""

import codecs
import io
import os
import sys
import warnings
from typing import TextIO

import tyro

from gelu_jax import signals
from gelu_jax.cli.activations import activations_command
from gelu_jax.cli.arguments import in_order
from gelu_jax.cli.audit import audit_command
from gelu_jax.cli.compare import compare_command
from gelu_jax.cli.configs import configs_command
from gelu_jax.cli.failures import failure
from gelu_jax.cli.generate import generate_command
from gelu_jax.cli.numerics import numerics_command
from gelu_jax.cli.plan import plan_command
from gelu_jax.cli.report import report_command
from gelu_jax.cli.tokenize import tokenize_command
from gelu_jax.cli.train import train_command

COMMANDS = {
    "compare": compare_command,
    "train": train_command,
    "configs": configs_command,
    "plan": plan_command,
    "generate": generate_command,
    "report": report_command,
    "tokenize": tokenize_command,
    "numerics": numerics_command,
    "audit": audit_command,
    "activations": activations_command,
}


def run() -> None:
    """Runs the command that the arguments name.

    A mistake of the user's is one line per mistake on standard error, and no traceback.
    """
    for stream in (sys.stdout, sys.stderr):
        _print_anything(stream)
    with warnings.catch_warnings():
        warnings.showwarning = _warn
        try:
            tyro.extras.subcommand_cli_from_dict(
                COMMANDS,
                prog="gelu-jax",
                args=in_order(sys.argv[1:]),
                config=(tyro.conf.FlagCreatePairsOff,),
            )
        except BrokenPipeError:  # the reader, `head` say, has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1)
        except Exception as error:
            if (known := failure(error)) is None:
                raise
            sys.exit(_fail(*known))
        except KeyboardInterrupt as interrupt:
            if number := signals.received():
                signals.leave(number, *interrupt.args[:1])
            sys.exit(_fail("Interrupted. Rerun the same command to resume.", 130))


_PLAIN = {
    "≤": "<=",
    "≥": ">=",
    "≈": "~",
    "−": "-",
    "–": "-",
    "×": "x",
    "±": "+-",
    "·": ".",
    "…": "...",
}


def _print_anything(stream: TextIO) -> None:
    """Signs that the encoding of a terminal lacks are replaced, not raised at the end of a run."""
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="gelu_jax")


def _plain(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    return "".join(_PLAIN.get(sign, "?") for sign in text), error.end


codecs.register_error("gelu_jax", _plain)


def _warn(message: Warning | str, *_: object) -> None:
    print(f"warning: {message}", file=sys.stderr)


def _fail(what: object, code: int) -> int:
    print(what, file=sys.stderr)
    return code
