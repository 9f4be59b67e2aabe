"""The built site: every public name is on it, every figure has a source, no other host is asked."""

import re
from importlib import import_module
from pathlib import Path

import pytest
from pages import PAGES, ROOT, name, prose
from test_architecture import FLOORS

PUBLIC = {  # module → what users meet of it; None: its __all__
    "gelu_jax": None,
    "gelu_jax.families": None,
    "gelu_jax.linen": ("Attention", "Block", "FeedForward", "MLP", "Norm", "Transformer"),
}

# What the browser would fetch by itself; a link that is only followed is none of this.
LOADS = re.compile(
    r"""<(?:script|img|iframe|source|video|audio|embed)\b[^>]*\bsrc=["']?(?:https?:)?//[^"'\s>]+"""
    r"""|<link\b(?=[^>]*\brel=["']?(?:stylesheet|preconnect|preload|icon|dns-prefetch))"""
    r"""[^>]*\bhref=["']?(?:https?:)?//[^"'\s>]+"""
    r"""|url\(["']?(?:https?:)?//[^)]+\)|@import\s+["'](?:https?:)?//[^"']+"""
)


def public_names():
    for module, names in PUBLIC.items():
        for public in names or import_module(module).__all__:
            yield f"{module}.{public}"


@pytest.fixture(scope="module")
def pages(site):
    return {path.relative_to(site).as_posix(): path.read_text() for path in site.rglob("*.html")}


def test_every_page_is_built(pages):
    expected = {Path(name(page)).relative_to("docs").with_suffix(".html") for page in PAGES[1:]}
    assert set(pages) == {path.as_posix() for path in expected} | {"404.html"}


@pytest.mark.parametrize("public", public_names())
def test_every_public_name_is_documented(pages, public):
    anchors = [page for page, html in pages.items() if f'id="{public}"' in html]
    assert len(anchors) == 1, anchors


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
CONSTANTS = {"95 %", "80 %"}  # of the statistics: ALPHA and the power


@pytest.mark.parametrize("page", PAGES[1:], ids=name)
def test_no_measured_figure_is_typed(page):
    """A number with a unit comes out of benchmarks/results, by a function of docs/figures.py."""
    assert set(MEASURED.findall(prose(page))) <= CONSTANTS


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
