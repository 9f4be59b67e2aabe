"""Arguments that several commands take."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

ConfigFile = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="CONFIG")]
Overrides = Annotated[
    tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[KEY=VALUE ...]")
]
Finished = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]

_OVERRIDDEN = ("compare", "train", "plan")
_FLAGS = {"--overwrite", "--change", "--quick", "--json", "--distributed", "--help", "-h"}
_LISTS = {"--resources"}
_OVERRIDE = re.compile(r"[A-Za-z_][\w.\[\]-]*=.*", re.DOTALL)


def in_order(arguments: Sequence[str]) -> list[str]:
    """The arguments with overrides after the config and before all options, wherever they stood.

    Args:
      arguments: of the command line, with the command first.

    Returns:
      The same arguments in the order in which tyro reads them.

    >>> in_order(["train", "--output", "a=b", "steps=3", "x.yaml", "--overwrite", "seed=1"])
    ['train', 'x.yaml', 'steps=3', 'seed=1', '--output', 'a=b', '--overwrite']
    """
    if not arguments or arguments[0] not in _OVERRIDDEN:
        return list(arguments)
    config, overrides, options = list[str](), list[str](), list[str]()
    takes = 0  # how many of the next arguments belong to an option
    for argument in arguments[1:]:
        if argument.startswith("-") and argument != "-":
            options.append(argument)
            takes = 0 if argument in _FLAGS or "=" in argument else 1
            takes = len(arguments) if argument in _LISTS else takes
        elif takes:
            options.append(argument)
            takes -= 1
        else:
            (overrides if _OVERRIDE.fullmatch(argument) else config).append(argument)
    return [arguments[0], *config, *overrides, *options]
