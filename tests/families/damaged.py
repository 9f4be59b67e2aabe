"""Copies of the fixtures' directories, to damage, and models to compare."""

import json
import shutil

import jax
import numpy as np
from parity import FIXTURES
from safetensors.numpy import load_file, save_file


def copied(name, path):
    """A fixture's directory to damage."""
    shutil.copytree(FIXTURES / name, path, ignore=shutil.ignore_patterns("golden*"))
    return path


def changed(path, *, config=None, tensors=None):
    """Changes fields of the config.json (None removes), or the tensors by a function."""
    file = path / "config.json"
    values = json.loads(file.read_text()) | (config or {})
    file.write_text(json.dumps({k: v for k, v in values.items() if v is not None}))
    if tensors is not None:
        weights = load_file(path / "model.safetensors")
        save_file(tensors(weights), path / "model.safetensors")
    return path


def leaves(model):
    found, _ = jax.tree_util.tree_flatten_with_path(model)
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in found}


def same(one, other):
    one, other = leaves(one), leaves(other)
    assert one.keys() == other.keys()
    for path in one:
        assert one[path].dtype == other[path].dtype
        np.testing.assert_array_equal(one[path], other[path], err_msg=path)
