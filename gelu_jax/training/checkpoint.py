"""Checkpoints of a run through orbax: any pytree, by step, the newest that can be read."""

import logging
import warnings
from pathlib import Path
from typing import Any, TypeVar

import jax
import orbax.checkpoint as ocp

T = TypeVar("T")


def save(directory: Path, step: int, tree: Any) -> None:
    """Writes a pytree as the checkpoint of a step, whole or not at all; keeps the last two."""
    with _manager(directory) as manager:
        manager.save(step, args=ocp.args.StandardSave(_flat(tree)))


def restore(directory: Path, like: T) -> T | None:
    """The newest checkpoint that can be read, in the structure of `like`; None where there is none.

    A damaged checkpoint is passed over with a warning that names it.
    """
    if not directory.is_dir():
        return None
    abstract = _flat(jax.eval_shape(lambda: like))
    with _manager(directory) as manager:
        for step in sorted(manager.all_steps(), reverse=True):
            try:
                flat = manager.restore(step, args=ocp.args.StandardRestore(abstract))
            except Exception as error:
                warnings.warn(
                    f"{directory / str(step)}: damaged checkpoint ({error})", stacklevel=2
                )
            else:
                return jax.tree.unflatten(jax.tree.structure(like), flat.values())
    return None


def _manager(directory: Path) -> ocp.CheckpointManager:
    logging.getLogger("absl").setLevel(logging.ERROR)
    options = ocp.CheckpointManagerOptions(max_to_keep=2, enable_async_checkpointing=False)
    return ocp.CheckpointManager(directory.resolve(), options=options)


def _flat(tree: Any) -> dict[str, Any]:
    """Leaves by their path: what a checkpoint holds does not depend on how modules are built."""
    return {jax.tree_util.keystr(p): x for p, x in jax.tree_util.tree_leaves_with_path(tree)}
