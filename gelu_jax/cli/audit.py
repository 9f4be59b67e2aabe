"""audit: what a checkpoint is, and where two of them first differ."""

from pathlib import Path
from typing import Annotated

import tyro

from gelu_jax.families.auditing import audit, differences

Directory = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIRECTORY")]
Other = Annotated[Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="[OTHER]")]


def audit_command(directory: Directory, other: Other = None) -> None:
    """Say what a checkpoint is: its activation by exact definition, its layout, what is odd.

    With another directory, say where the two first differ: fields, tensors, hidden states.

    Args:
        directory: of config.json and safetensors files.
        other: a checkpoint to compare with.
    """
    if other is None:
        print("\n".join(audit(directory)))
    else:
        print("\n".join(differences(directory, other)) or "no difference")
