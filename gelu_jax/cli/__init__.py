"""The command line: parse, call, print.

Exit codes: 0 done; 1 the machine failed (a full disk, no worker left, another process of the run
gone), or `numerics` found a promise broken; 2 the input was wrong; 130 stopped by Ctrl-C, to be
continued by the same command.
"""

import os
import sys
import warnings

import tyro

from gelu_jax.cli.compare import compare_command, report_command, train_command
from gelu_jax.cli.interrupts import interrupted, remembered_interrupts
from gelu_jax.cli.measure import numerics_command, plan_command
from gelu_jax.cli.text import generate_command, tokenize_command
from gelu_jax.errors import ConfigError

COMMANDS = {
    "compare": compare_command,
    "train": train_command,
    "plan": plan_command,
    "generate": generate_command,
    "report": report_command,
    "tokenize": tokenize_command,
    "numerics": numerics_command,
}


def main() -> None:
    """Runs a command; an error of the user's is one line for each mistake, and no traceback."""
    interrupted.clear()
    with warnings.catch_warnings(), remembered_interrupts():
        warnings.showwarning = _remark
        try:
            tyro.extras.subcommand_cli_from_dict(
                COMMANDS, prog="gelu-jax", config=(tyro.conf.FlagCreatePairsOff,)
            )
        except ConfigError as error:
            sys.exit(_complaint(error, 2))
        except BrokenPipeError:  # the reader, `head` say, has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1)
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            sys.exit(_complaint(f"{error.filename or 'disk'}: {reason}", 1))
        except KeyboardInterrupt:
            sys.exit(_complaint("stopped; the same command goes on from here", 130))


def _remark(message: Warning | str, *_: object) -> None:
    print(f"warning: {message}", file=sys.stderr)


def _complaint(what: object, code: int) -> int:
    print(what, file=sys.stderr)
    return code
