"""audit: what a checkpoint is, and where two of them first differ."""

from pathlib import Path
from typing import Annotated

import tyro

from gelu_jax.families.auditing import audit, differences, file_differences

Directory = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIRECTORY")]
Other = Annotated[Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="[OTHER]")]


def audit_command(directory: Directory, other: Other = None) -> None:
    """Say what a checkpoint is: its activation by exact definition, its layout, what is odd.

    With another directory, say where the two first differ: fields, tensors, hidden states; with a
    file of tokens and hidden states, such as torch computed, the layer after which they differ.

    Args:
        directory: of config.json and safetensors files.
        other: a checkpoint to compare with, or a safetensors file of tokens, states.0, states.1, ….
    """
    if other is None:
        print("\n".join(audit(directory)))
        return
    compare = file_differences if other.is_file() else differences
    print("\n".join(compare(directory, other)) or "no difference")
