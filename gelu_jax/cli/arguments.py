"""Arguments that several commands take."""

from pathlib import Path
from typing import Annotated

import tyro

ConfigFile = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="CONFIG")]
Overrides = Annotated[
    tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[KEY=VALUE ...]")
]
Finished = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
