"""The built site: every public name is on it, every figure has a source, no other host is asked."""

import re
from collections import Counter
from importlib import import_module
from itertools import chain
from pathlib import Path
from typing import TypeVar

import pytest
from pages import PAGES, ROOT, name, prose
from test_architecture import FLOORS

PACKAGES = ("gelu_jax", "gelu_jax.families")  # all of their __all__
MODULES = tuple(  # everything public that they define
    f"gelu_jax.{name}"
    for name in (
        "nn.axes", "nn.branches", "nn.decoding", "nn.dropout", "nn.encoder",
        "nn.encoder_decoder", "nn.speech", "nn.vision",
        "nn.vision_language", "nn.tiles", "nn.dual_encoder", "nn.sigmoid_dual_encoder",
        "nn.convolution", "nn.layouts",
        "training.config", "training.trainer", "training.model", "training.optimizer",
        "training.mesh", "training.checkpoint", "training.health", "training.memory_plan",
        "runs.record", "runs.execution", "runs.executors", "runs.trackers",
        "compare.config", "compare.experiment", "compare.records", "compare.analysis",
        "compare.statistics", "report.verdict", "report.wording", "report.tables", "report.write",
        "report.summary",
    )
)  # fmt: skip
NAMED = (
    *(f"gelu_jax.linen.{n}" for n in ("Attention", "Block", "FeedForward", "MLP", "MoE", "Norm")),
    "gelu_jax.linen.Transformer",
    "gelu_jax.nn.parameters.current_names",
    *(f"gelu_jax.training.data.{n}" for n in ("load_data", "StdlibCorpus", "Files", "TokenFiles")),
    *(f"gelu_jax.training.data.{n}" for n in ("HuggingFace", "Digits", "Mnist")),
    "gelu_jax.runs.worker_pool.WorkerPool",
    "gelu_jax.runs.launchers.launch",
)


def public_names():
    for package in PACKAGES:
        yield from (f"{package}.{name}" for name in import_module(package).__all__)
    for module in MODULES:
        yield from (
            f"{module}.{name}"
            for name, found in vars(import_module(module)).items()
            if not name.startswith("_")
            and getattr(found, "__module__", None) == module
            and not isinstance(found, TypeVar)
        )
    yield from NAMED


# What the browser would fetch by itself; a link that is only followed is none of this.
LOADS = re.compile(
    r"""<(?:script|img|iframe|source|video|audio|embed)\b[^>]*\bsrc=["']?(?:https?:)?//[^"'\s>]+"""
    r"""|<link\b(?=[^>]*\brel=["']?(?:stylesheet|preconnect|preload|icon|dns-prefetch))"""
    r"""[^>]*\bhref=["']?(?:https?:)?//[^"'\s>]+"""
    r"""|url\(["']?(?:https?:)?//[^)]+\)|@import\s+["'](?:https?:)?//[^"']+"""
)


@pytest.fixture(scope="module")
def pages(site):
    return {path.relative_to(site).as_posix(): path.read_text() for path in site.rglob("*.html")}


def test_every_page_is_built(pages):
    expected = {Path(name(page)).relative_to("docs").with_suffix(".html") for page in PAGES[1:]}
    assert set(pages) == {path.as_posix() for path in expected} | {"404.html"}


def test_every_public_name_is_documented_once(pages):
    anchors = Counter(
        chain.from_iterable(re.findall(r'id="(gelu_jax[\w.]+)"', html) for html in pages.values())
    )
    assert {name for name in public_names() if anchors[name] != 1} == set()


def test_no_page_fetches_anything_from_another_host(site):
    for path in [*site.rglob("*.html"), *site.rglob("*.css")]:
        assert LOADS.findall(path.read_text()) == [], path


def test_loads_are_found():
    """The pattern sees each kind of load, and lets links alone."""
    loads = (
        '<script src="https://a.b/c.js">', "<img alt=x src=//a.b/c.png>", "url(https://a.b/c.woff)",
        '<link rel="stylesheet" href="https://a.b/c.css">', '@import "https://a.b/c.css"',
        '<link href="https://a.b" rel="preconnect">',
    )  # fmt: skip
    assert all(len(LOADS.findall(load)) == 1 for load in loads)
    assert (
        LOADS.findall('<a href="https://a.b">x</a><img src="a/b.png"><link rel=canonical href=//a>')
        == []
    )


MEASURED = re.compile(
    r"\d[\d.,]*\s*(?:ms\b|s\b|seconds?\b|minutes?\b|hours?\b|[kMGT]B\b|%|×|nats\b|NaN\b)"
)
CONSTANTS = {"95 %", "80 %", "5 %"}  # of the statistics: the levels and the power


@pytest.mark.parametrize("page", PAGES[1:], ids=name)
def test_no_measured_figure_is_typed(page):
    """A number with a unit comes out of benchmarks/results, by a function of docs/figures.py."""
    assert set(MEASURED.findall(prose(page))) <= CONSTANTS


def test_docstrings_are_read(pages):
    """Examples are code, and sections are lists: neither is left in the text."""
    for page, html in pages.items():
        text = re.sub(r"<pre.*?</pre>", "", html, flags=re.DOTALL)
        assert not re.search(r"&gt;&gt;&gt;|<p>(?:Args|Attributes|Returns|Raises):", text), page


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_files_that_a_page_names_exist(page):
    inside = r"`((?:benchmarks|configs|docs|examples|gelu_jax|tests)/[\w./]+)`"
    for path in re.findall(inside, page.read_text()):
        assert (ROOT / path).exists(), path


def test_the_floors_of_the_architecture_page():
    """The table says on which floor each module of tests/test_architecture.py stands."""
    rows = re.findall(r"^\| (\S+) \| (.+?) \|", (ROOT / "docs/architecture.md").read_text(), re.M)
    said = {
        module.replace("/", ".").removesuffix(".py").rstrip("."): int(floor)
        for floor, modules in rows
        if floor.isdigit()
        for module in re.findall(r"`([\w/.]+)`", modules)
    }
    held = {
        module.removeprefix("gelu_jax."): floor
        for module, floor in FLOORS.items()
        if floor >= 0 and module != "gelu_jax"
    }
    assert said == held
