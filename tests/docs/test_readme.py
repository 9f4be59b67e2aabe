"""The README: one page, whose figures are those of benchmarks/results; what cites us is valid."""

import re
import tomllib

import yaml
from pages import PAGES, ROOT, links

from gelu_jax.compare.analysis import analyze
from gelu_jax.compare.records import read_results
from gelu_jax.report.tables import results_table
from gelu_jax.report.verdict import verdict
from gelu_jax.version import __version__

README = (ROOT / "README.md").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
ANALYSIS = analyze(read_results(ROOT / "benchmarks" / "results" / "compare_activations"))


def test_it_is_one_page():
    assert len(README.splitlines()) <= 130


def test_its_table_is_that_of_the_results():
    tables = re.findall(r"(?:^\|.*\n)+", README, re.MULTILINE)
    assert [table.strip() for table in tables] == [results_table(ANALYSIS).markdown().strip()]


def test_its_verdict_is_that_of_the_results():
    quoted = [line.removeprefix("> ") for line in README.splitlines() if line.startswith("> ")]
    assert quoted == str(verdict(ANALYSIS)).splitlines()


def test_its_badges_say_what_the_package_says():
    (least_jax,) = (d for d in PROJECT["dependencies"] if re.match(r"jax\b", d))
    said = {
        "python": "≥ " + PROJECT["requires-python"].removeprefix(">="),
        "jax": "≥ " + least_jax.partition(">=")[2],
        "types": "strict",
        "license": PROJECT["license"],
    }
    for name, value in said.items():
        assert f"![{name}: {value}](" in README.replace(f"{name} ≥", f"{name}: ≥")
        badge = (ROOT / "docs" / "assets" / "badges" / f"{name}.svg").read_text()
        assert f"<title>{name}: {value}</title>" in badge
        assert f">{value}</text>" in badge


def test_links_lead_somewhere():
    for link in links(ROOT / "README.md"):
        path, _, anchor = link.partition("#")
        assert (ROOT / path).exists(), link
        headings = re.findall(r"^#+ (.+)$", (ROOT / path).read_text(), re.M) if anchor else []
        assert not anchor or anchor in {h.lower().replace(" ", "-") for h in headings}, link


def test_every_page_can_be_reached_from_it_or_from_the_site():
    listed = yaml.safe_load((ROOT / "mkdocs.yml").read_text().replace("!", ""))["nav"]
    found = set(re.findall(r"[\w/]+\.md", str(listed)))
    assert found == {page.relative_to(ROOT / "docs").as_posix() for page in PAGES[1:]}


def test_the_citation():
    """What the schema of CFF 1.2.0 requires, and the version and title that the README gives."""
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation.keys() >= {"cff-version", "message", "title", "authors"}
    assert citation["cff-version"] == "1.2.0"
    assert citation["authors"] == [{"name": "The gelu_jax developers"}]
    assert citation["version"] == __version__
    assert citation["license"] == PROJECT["license"]
    assert f"title   = {{{citation['title']}}}" in README
    assert f"version = {{{__version__}}}" in README
