"""The floors: imports run strictly downward, heavy packages stay in their rooms."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "gelu_jax"
FILES = sorted(PACKAGE.rglob("*.py"))

FLOORS = {  # the longest prefix that fits counts
    "gelu_jax.errors": -1,
    "gelu_jax.files": -1,
    "gelu_jax.importing": -1,
    "gelu_jax.signals": -1,
    "gelu_jax.version": -1,
    "gelu_jax.activations": 0,
    "gelu_jax.nn": 1,
    "gelu_jax.nn.block": 2,
    "gelu_jax.nn.stack": 3,
    "gelu_jax.nn.encoder": 3,
    "gelu_jax.nn.encoder_decoder": 3,
    "gelu_jax.nn.vision": 3,
    "gelu_jax.nn.vision_language": 3,
    "gelu_jax.nn.dual_encoder": 3,
    "gelu_jax.nn.sigmoid_dual_encoder": 3,
    "gelu_jax.nn.transformer": 3,
    "gelu_jax.nn.mlp": 3,
    "gelu_jax.linen": 4,
    "gelu_jax.families": 4,
    "gelu_jax.numerics": 4,
    "gelu_jax.training.python": 4,  # what data, model and optimizer of one's own share
    "gelu_jax.training": 5,
    "gelu_jax.runs": 6,
    "gelu_jax.compare": 7,
    "gelu_jax.report": 8,
    "gelu_jax": 9,  # the façade: only a table of contents
    "gelu_jax.cli": 9,
    "gelu_jax.lab": 10,  # what the commands do, from Python
}

ROOMS = {  # package → the modules that may import it
    "matplotlib": "gelu_jax.report.figures",
    "plotly": "gelu_jax.report.page",
    "scipy": ("gelu_jax.compare", "gelu_jax.numerics.reference"),
    "jinja2": "gelu_jax.report.templates",
    "yaml": "gelu_jax.training.document",
    "pydantic": (
        "gelu_jax.training",
        "gelu_jax.runs",
        "gelu_jax.compare",
        "gelu_jax.report",
    ),
    "optax": "gelu_jax.training",
    "orbax": "gelu_jax.training.checkpoint",
    "sklearn": "gelu_jax.training.data",
    "grain": "gelu_jax.training.data",
    "datasets": "gelu_jax.training.data",
    "tokenizers": ("gelu_jax.training.data", "gelu_jax.families"),
    "tyro": "gelu_jax.cli",
    "tensorboardX": "gelu_jax.runs.trackers",
    "wandb": "gelu_jax.runs.trackers",
    "submitit": ("gelu_jax.runs.launchers", "gelu_jax.runs.worker"),
}


def module(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts).removesuffix(".__init__")


def floor(name: str) -> int:
    prefixes = [p for p in FLOORS if name == p or name.startswith(p + ".")]
    return FLOORS[max(prefixes, key=len)]


def is_ours(name: str) -> bool:
    """Whether a dotted name is a module or a package of ours."""
    path = PACKAGE.parent / name.replace(".", "/")
    return name.startswith("gelu_jax") and (path.with_suffix(".py").exists() or path.is_dir())


def imports(path: Path) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            # `from gelu_jax.nn import checks` imports a module: resolve it to that module
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            is_module = [is_ours(name) for name in names]
            found += [n if m else node.module for n, m in zip(names, is_module, strict=True)]
    return found


@pytest.mark.parametrize("path", FILES, ids=module)
def test_imports_run_downward(path):
    for name in imports(path):
        if name.startswith("gelu_jax"):
            room = name.rpartition(".")[0]
            same_room = room in (module(path), module(path).rpartition(".")[0])
            assert floor(name) < floor(module(path)) or (
                same_room and floor(name) == floor(module(path))
            ), f"{module(path)} (floor {floor(module(path))}) imports {name} (floor {floor(name)})"


def test_no_cycles():
    graph = {module(p): {n for n in imports(p) if n.startswith("gelu_jax")} for p in FILES}
    TopologicalSorter(graph).prepare()  # raises CycleError, which shows the cycle


@pytest.mark.parametrize("path", FILES, ids=module)
def test_heavy_packages_stay_in_their_rooms(path):
    for name in imports(path):
        rooms = ROOMS.get(name.partition(".")[0], "gelu_jax")
        assert module(path).startswith(rooms), f"{module(path)} imports {name}"


def test_import_is_quick_and_lean():
    """flax itself brings yaml, optax and rich; nothing else of training or reports comes along."""
    heavy = [
        "orbax.checkpoint",
        "matplotlib",
        "plotly",
        "pydantic",
        "tyro",
        "sklearn",
        "scipy.stats",
        "grain",
        "datasets",
        "tokenizers",
    ]
    code = f"import sys, gelu_jax; print([m for m in {heavy} if m in sys.modules])"
    flax = "import sys, flax.nnx; " + code.partition("; ")[0].removesuffix(", gelu_jax")
    flax += f"; print([m for m in {heavy} if m in sys.modules])"
    ours, theirs = (
        subprocess.run([sys.executable, "-c", c], capture_output=True, text=True, check=True).stdout
        for c in (code, flax)
    )
    assert ours == theirs
