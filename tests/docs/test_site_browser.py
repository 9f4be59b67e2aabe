"""The site in Chromium: every page at two widths, light and dark; see test_report_browser.py."""

import functools
import http.server
import json
import os
import threading

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.wait import WebDriverWait

pytestmark = pytest.mark.browser

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)  # fmt: skip
VIEWS = [(width, theme) for width in (1280, 390) for theme in ("light", "dark")]
TOO_WIDE = """
    const width = document.documentElement.clientWidth;
    return [...document.querySelectorAll("article *")].filter(e => {
        if (e.getBoundingClientRect().right <= width + 1) return false;
        for (let p = e.parentElement; p.tagName != "ARTICLE"; p = p.parentElement)
            if (getComputedStyle(p).overflowX != "visible") return false;
        return true;
    }).map(e => e.outerHTML.slice(0, 120));
"""


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def address(site):
    """Where the site is served from: its search runs on a server only."""
    handler = functools.partial(Quiet, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = os.environ.get("CHROMIUM", "/usr/bin/chromium")
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = Service(os.environ.get("CHROMEDRIVER", "/usr/bin/chromedriver"))
    with webdriver.Chrome(options=options, service=service) as driver:
        driver.execute_cdp_cmd("Network.enable", {})
        yield driver


def look(driver, width, theme):
    scheme = {"name": "prefers-color-scheme", "value": theme}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def events(driver, method):
    messages = (json.loads(e["message"])["message"] for e in driver.get_log("performance"))
    return [message["params"] for message in messages if message["method"] in method]


@pytest.mark.parametrize(("width", "theme"), VIEWS)
def test_every_page(site, address, driver, width, theme):
    look(driver, width, theme)
    paths = sorted(path.relative_to(site).as_posix() for path in site.rglob("*.html"))
    assert len(paths) > 10
    for path in paths:
        driver.get_log("browser"), driver.get_log("performance")
        driver.get(f"{address}/{path}")
        root = "document.documentElement"
        assert driver.execute_script(f"return {root}.scrollWidth <= {root}.clientWidth"), path
        assert driver.execute_script(TOO_WIDE) == [], path
        dark = driver.execute_script("return document.body.dataset.mdColorScheme") == "slate"
        assert dark == (theme == "dark"), path
        assert [entry["message"] for entry in driver.get_log("browser")] == [], path
        for event in events(driver, ("Network.requestWillBeSent", "Network.responseReceived")):
            response = event.get("response", {"status": 200})
            url = event.get("request", response)["url"]
            assert url.startswith((address, "data:", "blob:")), url
            assert response["status"] in (0, 200, 304), url


def test_search_finds_a_function(address, driver):
    look(driver, 1280, "light")
    driver.get(f"{address}/index.html")
    driver.execute_script("document.querySelector('.md-search__input').focus()")
    driver.switch_to.active_element.send_keys("matched_width")
    found = "return document.querySelectorAll('.md-search-result__link').length > 0"
    WebDriverWait(driver, 20).until(lambda d: d.execute_script(found))
