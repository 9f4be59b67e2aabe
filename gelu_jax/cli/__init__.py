"""The command line: parse, call, print.

Exit codes: 0 done; 1 the machine failed (a full disk, no worker left, another process of the run
gone), or `numerics` found a broken promise; 2 the input was wrong; 130, 143, 129, 138 and 140 ended
by a signal (see `gelu_jax.signals`), to be resumed by the same command.
"""

import sys
from importlib.util import find_spec

from gelu_jax.version import __version__

LAB = (
    "filelock",
    "jinja2",
    "matplotlib",
    "mpmath",
    "plotly",
    "pydantic",
    "scipy",
    "sklearn",
    "tyro",
)
"""What the extra `lab` installs, by the names that it is imported by."""


def main() -> None:
    """Runs a command, or says what is missing to do so."""
    if sys.argv[1:] == ["--version"]:
        print(f"gelu-jax {__version__}")
        return
    if missing := [name for name in LAB if find_spec(name) is None]:
        print(f"gelu-jax needs {missing[0]}: pip install 'gelu-jax[lab]'", file=sys.stderr)
        sys.exit(2)
    from gelu_jax.cli.commands import run  # only now, because it needs the lab

    run()
