"""The report as a person meets it: in Chromium, offline, every control used.

Needs Debian's packages chromium and chromium-driver (or CHROMIUM and CHROMEDRIVER, two paths):

    apt-get install chromium chromium-driver
    pytest -m browser tests/report/test_report_browser.py
"""

import json
import os
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait
from synthetic import CASES, HOSTILE, ladder
from test_ladder_report import CONFIG

from gelu_jax.compare.ladder_analysis import analyze_ladder
from gelu_jax.report.write import write_ladder_report, write_report

pytestmark = pytest.mark.browser

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
PLOTS = (
    "curves-plot", "differences-plot", "targets-plot", "rates-plot", "health-0", "health-1",
)  # fmt: skip
SHOWN = ("full", "one run", "ten arms", "no evaluation", "hostile")
VIEWS = [(width, theme) for width in (1280, 390) for theme in ("light", "dark")]


class Browser:
    """Chromium without a network; remembers what pages asked for and complained about."""

    def __init__(self, profile: Path):
        options = webdriver.ChromeOptions()
        options.binary_location = os.environ.get("CHROMIUM", "/usr/bin/chromium")
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        service = Service(os.environ.get("CHROMEDRIVER", "/usr/bin/chromedriver"))
        self.driver = webdriver.Chrome(options=options, service=service)
        self.command("Network.enable")
        offline = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
        self.command("Network.emulateNetworkConditions", **offline)

    def command(self, name: str, **arguments: object) -> None:
        self.driver.execute_cdp_cmd(name, arguments)

    def look(self, width: int, theme: str) -> None:
        scheme = {"name": "prefers-color-scheme", "value": theme}
        self.command("Emulation.setEmulatedMedia", features=[scheme])
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        self.command("Emulation.setDeviceMetricsOverride", **size)

    def open(self, page: Path) -> None:
        self.complaints(), self.requests()
        self.driver.get(page.as_uri())
        self.wait("return document.querySelector('#curves-plot .main-svg') !== null")

    def wait(self, condition: str) -> None:
        WebDriverWait(self.driver, 20, 0.05).until(lambda d: d.execute_script(condition), condition)

    def ask(self, expression: str) -> object:
        return self.driver.execute_script(f"return {expression}")

    def traces(self, plot: str = "curves-plot") -> int:
        return int(str(self.ask(f"document.getElementById('{plot}').data.length")))

    def layout(self, path: str, plot: str = "curves-plot") -> object:
        return self.ask(f"document.getElementById('{plot}').layout.{path}")

    def control(self, name: str, value: str | None = None) -> WebElement:
        which = f'[name="{name}"]' + (f'[value="{value}"]' if value is not None else "")
        return self.driver.find_element(By.CSS_SELECTOR, f"form input{which}")

    def click(self, name: str, value: str | None = None) -> None:
        element = self.control(name, value)
        self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
        element.click()

    def complaints(self) -> list[str]:
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def requests(self) -> list[str]:
        messages = (json.loads(e["message"])["message"] for e in self.driver.get_log("performance"))
        sent = (m for m in messages if m["method"] == "Network.requestWillBeSent")
        return [message["params"]["request"]["url"] for message in sent]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    found = Browser(tmp_path_factory.mktemp("profile"))
    yield found
    found.driver.quit()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {case: write_report(CASES[case], tmp_path_factory.mktemp("report"))[0] for case in SHOWN}


@pytest.fixture
def report(browser: Browser, pages: dict[str, Path]) -> Iterator[Browser]:
    """The full report, open at desktop width; fails the test on a complaint or a request."""
    browser.look(1280, "light")
    browser.open(pages["full"])
    yield browser
    assert browser.complaints() == []
    assert only_itself(browser.requests(), pages["full"])


def only_itself(requests: list[str], page: Path) -> bool:
    first, *others = requests
    return first == page.as_uri() and all(url.startswith(("data:", "blob:")) for url in others)


@pytest.mark.parametrize(("width", "theme"), VIEWS)
@pytest.mark.parametrize("case", SHOWN)
def test_opens_offline_without_a_complaint(browser, pages, case, width, theme):
    browser.look(width, theme)
    browser.open(pages[case])
    root = "document.documentElement"
    assert browser.ask(f"{root}.scrollWidth <= {root}.clientWidth"), "the page scrolls sideways"
    dark = browser.ask("getComputedStyle(document.body).backgroundColor") == "rgb(23, 22, 20)"
    assert dark == (theme == "dark")
    assert browser.layout("paper_bgcolor") == ("#171614" if theme == "dark" else "#fdfcfa")
    assert browser.complaints() == []
    assert only_itself(browser.requests(), pages[case])


def test_every_control_can_be_used(report: Browser):
    controls = report.driver.find_elements(By.CSS_SELECTOR, "form input")
    assert len(controls) == 4 + 4 + 2 + 3 + 3 + 3
    for element in controls * 2:
        report.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
        before = element.is_selected()
        element.click()
        assert element.is_selected() == (not before or element.get_attribute("type") == "radio")
        assert report.complaints() == []


@pytest.mark.parametrize(
    ("axis", "title", "last"),
    [
        ("steps", "training step", 2000),
        ("tokens", "tokens", 2000 * 2048),
        ("flops", "training FLOPs", 2000 * 1.56e9),
        ("seconds", "seconds of training", None),
    ],
)
def test_axes(report: Browser, axis: str, title: str, last: float | None):
    report.click("axis", axis)
    assert report.layout("xaxis.title.text") == title
    end = report.ask("document.getElementById('curves-plot').data.at(-1).x.at(-1)")
    assert end == last if last is not None else 12 < float(str(end)) < 15


@pytest.mark.parametrize(
    ("measure", "title"),
    [
        ("validation", "validation loss (nats per byte)"),
        ("training", "training loss (nats per byte)"),
        ("accuracy", "validation accuracy"),
        ("both", "loss (nats per byte)"),
    ],
)
def test_measures(report: Browser, measure: str, title: str):
    report.click("measure", measure)
    assert report.layout("yaxis.title.text") == title
    assert report.traces() == 3 * (8 + 3 if measure != "both" else 3 + 3)


def test_scales_views_and_seeds(report: Browser):
    for name in ("x", "y"):
        assert report.layout(f"{name}axis.type") == "linear"
        report.click(f"log{name}")
        assert report.layout(f"{name}axis.type") == "log"
    report.click("logy")
    low, high = report.layout("yaxis.range")  # type: ignore[misc]
    assert 2.0 < low < 2.1 < high < 2.7
    report.click("view", "whole")
    assert report.layout("yaxis.range")[1] > 5  # type: ignore[index]
    report.click("seeds")
    assert report.traces() == 3 * 3


def test_arms_go_and_come_in_every_plot(report: Browser):
    before = {plot: report.traces(plot) for plot in PLOTS}
    report.click("arm", "1")
    for plot in PLOTS:
        assert report.traces(plot) < before[plot]
    report.click("arm", "0")
    report.click("arm", "2")
    assert {report.traces(plot) for plot in PLOTS} == {0}
    for arm in "012":
        report.click("arm", arm)
    assert {plot: report.traces(plot) for plot in PLOTS} == before


def test_layers(report: Browser):
    last = "document.getElementById('health-0').data[0].y.at(-1)"
    mean = float(str(report.ask(last)))
    report.click("layer", "0")
    first = float(str(report.ask(last)))
    report.click("layer", "1")
    second = float(str(report.ask(last)))
    assert first < mean < second
    assert mean == pytest.approx((first + second) / 2, rel=1e-3)


def test_hover_shows_every_arm_and_a_drag_zooms(report: Browser):
    plot = report.driver.find_element(By.CSS_SELECTOR, "#curves-plot .nsewdrag")
    report.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", plot)
    ActionChains(report.driver).move_to_element_with_offset(plot, 60, 20).perform()
    report.wait("return document.querySelector('#curves-plot .hoverlayer').textContent !== ''")
    shown = report.driver.find_element(By.CSS_SELECTOR, "#curves-plot .hoverlayer").text
    for arm in ("relu", "gelu", "swiglu"):
        assert arm in shown
    before = report.layout("xaxis.range")
    ActionChains(report.driver).click_and_hold().move_by_offset(120, 80).release().perform()
    report.wait("return document.getElementById('curves-plot').layout.xaxis.range[0] > 500")
    assert report.layout("xaxis.range") != before


def test_the_plots_offer_no_upload(report: Browser):
    names = "[...document.querySelectorAll('.modebar-btn')].map(b => b.dataset.title)"
    titles = set(report.ask(names))  # type: ignore[call-overload]
    assert titles == {"Download plot as a PNG", "Zoom", "Pan", "Reset axes"}


def test_copy_buttons(report: Browser):
    report.command(
        "Browser.grantPermissions", permissions=["clipboardReadWrite", "clipboardSanitizedWrite"]
    )
    for summary in report.driver.find_elements(By.TAG_NAME, "summary"):
        summary.click()
    for button in report.driver.find_elements(By.CSS_SELECTOR, "[data-copy]"):
        report.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", button)
        button.click()
        WebDriverWait(report.driver, 5).until(lambda _, b=button: b.text in {"Copied", "Selected"})
        assert button.text == "Copied"


def test_the_plots_follow_the_theme(report: Browser):
    for theme, paper in (("dark", "#171614"), ("light", "#fdfcfa")):
        report.look(1280, theme)
        report.wait(
            f"return document.getElementById('curves-plot').layout.paper_bgcolor === '{paper}'"
        )


def test_keyboard_reaches_the_controls(report: Browser):
    report.ask("document.querySelector('form input[name=measure]').focus()")
    report.driver.switch_to.active_element.send_keys("\ue014")  # the right arrow
    assert report.control("measure", "training").is_selected()
    assert report.layout("yaxis.title.text") == "training loss (nats per byte)"


def test_hostile_names_are_text_in_the_plots(browser: Browser, pages: dict[str, Path]):
    browser.look(1280, "light")
    browser.open(pages["hostile"])
    title = browser.driver.find_element(By.CSS_SELECTOR, "#curves-plot .ytitle")
    assert HOSTILE in title.get_attribute("textContent")
    assert browser.ask("document.querySelectorAll('img').length") == 0
    assert browser.complaints() == []


def test_line_ends_are_labelled_and_do_not_overlap(report: Browser):
    """In the order of the curves at their ends, each below the one above it."""
    found = report.ask(
        "[...document.querySelectorAll('#curves-plot .annotation-text')].map("
        "e => [e.textContent, e.getBoundingClientRect().top, e.getBoundingClientRect().bottom])"
    )
    rows = sorted(found, key=lambda row: row[1])  # type: ignore[call-overload]
    assert [name for name, *_ in rows] == ["relu", "gelu", "swiglu"]
    for above, below in pairwise(rows):
        assert below[1] >= above[2] - 4


def test_a_share_has_no_axis_below_zero(report: Browser):
    for plot in ("health-0", "health-1"):
        assert report.layout("yaxis.range", plot)[0] >= 0  # type: ignore[index]


@pytest.mark.parametrize(("width", "theme"), VIEWS)
def test_a_ladder_opens_offline_and_every_control_works(
    browser: Browser, tmp_path: Path, width: int, theme: str
):
    page = write_ladder_report(analyze_ladder(ladder()), CONFIG, tmp_path, "command")[0]
    browser.look(width, theme)
    browser.complaints(), browser.requests()
    browser.driver.get(page.as_uri())
    browser.wait("return document.querySelector('#losses-plot .main-svg') !== null")
    root = "document.documentElement"
    assert browser.ask(f"{root}.scrollWidth <= {root}.clientWidth"), "the page scrolls sideways"
    assert browser.traces("losses-plot") == 3 * 3
    assert browser.traces("speed-ups-plot") == 2 * 2
    for unit in ("tokens", "seconds", "FLOPs"):
        browser.click("unit", unit)
        assert unit in str(browser.layout("yaxis.title.text", "speed-ups-plot"))
    browser.click("arm", "1")
    assert browser.traces("losses-plot") == 2 * 3
    assert browser.traces("speed-ups-plot") == 2
    browser.click("arm", "0")
    browser.click("arm", "2")
    assert browser.traces("losses-plot") == 0
    assert browser.complaints() == []
    assert only_itself(browser.requests(), page)
