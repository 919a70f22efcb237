"""The page in a real browser: quiet, alone, usable by eye, by keyboard, by screen reader and on paper.

A failing test leaves a screenshot in its temporary folder.
"""

from __future__ import annotations

import base64
import io
import itertools
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from fixtures_pages import POLICY, make_graded_run, make_page_run

from edgekd.report import render

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER) and not os.environ.get("EDGEKD_NEED_BROWSER"),
    reason="Chromium is not installed: apt install chromium chromium-driver",
)

#: name -> (width in CSS pixels, colour scheme)
MODES = {
    "light": (1280, "light"),
    "dark": (1280, "dark"),
    "phone": (360, "light"),
    "phone-dark": (360, "dark"),
}
HOSTILE = "</script><img src=x onerror=window.taken=1>\u202e\x00"


class Browser:
    """One Chromium for all tests, and the pages it opens."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def log(self, kind: str) -> list[dict[str, Any]]:
        return list(self.driver.get_log(kind))

    def media(self, media: str, scheme: str) -> None:
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": features})

    @contextmanager
    def page(self, path: Path, mode: str, tmp_path: Path) -> Iterator[Any]:
        """The page as a mode shows it; what went wrong is photographed."""
        width, scheme = {**MODES, "laptop": (1200, "light")}[mode]
        size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        self.media("", scheme)
        self.log("browser"), self.log("performance")
        self.driver.get(path.as_uri())
        try:
            yield self.driver
        except BaseException:
            shot = self.driver.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True})
            (tmp_path / f"{mode}.png").write_bytes(base64.b64decode(shot["data"]))
            raise


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM or ""
    # The sandbox needs privileges that containers lack; the pages are our own.
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield Browser(driver)
    driver.quit()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run with everything in it and slices that fail, one with 50 candidates, and a hostile one."""
    few = {name: POLICY[name] for name in ("accuracy", "latency", "size")}
    scenes: dict[str, dict[str, Any]] = {
        "whole": {"n": 2000, "sites": 8, "damage": 0.15},
        "many": {"candidates": 50, "n": 300, "calls": 8, "policy": few},
        "hostile": {"n": 400, "calls": 8, "candidates": 3, "hostile": HOSTILE},
    }
    made = {}
    for name, options in scenes.items():
        folder = make_page_run(tmp_path_factory.mktemp(name), **options)
        made[name] = folder / "report.html"
        made[name].write_text(render(folder, "html"), encoding="utf-8")
    return made


def test_the_chain_of_an_error_metric_is_not_cut_off(browser: Browser, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    page.write_text(render(make_graded_run(tmp_path / "run"), "html"), encoding="utf-8")
    with browser.page(page, "laptop", tmp_path) as driver:
        wide, seen = driver.execute_script(
            "const box = document.querySelector('#chain .scroll'); return [box.scrollWidth, box.clientWidth]"
        )
        assert wide <= seen


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["whole", "many", "hostile"])
def test_page_is_quiet_and_alone(
    browser: Browser, pages: dict[str, Path], name: str, mode: str, tmp_path: Path
) -> None:
    with browser.page(pages[name], mode, tmp_path) as driver:
        assert browser.log("browser") == []
        sent = [json.loads(e["message"])["message"] for e in browser.log("performance")]
        asked = [m["params"]["request"]["url"] for m in sent if m["method"] == "Network.requestWillBeSent"]
        assert pages[name].as_uri() in asked
        assert [u for u in asked if u != pages[name].as_uri() and not u.startswith("data:image/png")] == []
        wide, inner = driver.execute_script(
            "document.querySelectorAll('details').forEach(d => d.open = true);"
            "return [document.documentElement.scrollWidth, innerWidth]"
        )
        assert wide <= inner == MODES[mode][0]


@pytest.mark.parametrize("mode", MODES)
def test_axe_finds_nothing(browser: Browser, pages: dict[str, Path], mode: str, tmp_path: Path) -> None:
    axe = files("axe_core_python").joinpath("axe.min.js").read_text(encoding="utf-8")
    with browser.page(pages["whole"], mode, tmp_path) as driver:
        driver.execute_script("document.querySelectorAll('details').forEach(d => d.open = true)")
        driver.execute_script(axe)
        found = driver.execute_async_script(
            "const done = arguments[0]; axe.run(document, {resultTypes: ['violations']}).then(done, e => done(`${e}`))"
        )
        assert len(found["passes"]) > 20
        wrong = [(v["id"], [n["target"] for n in v["nodes"]][:3]) for v in found["violations"]]
        assert wrong == []


def test_tab_reaches_everything_that_can_be_used(
    browser: Browser, pages: dict[str, Path], tmp_path: Path
) -> None:
    from selenium.webdriver.common.keys import Keys

    with browser.page(pages["whole"], "phone", tmp_path) as driver:
        wanted = driver.execute_script(
            "const all = [...document.querySelectorAll('a, summary, .scroll')];"
            "all.forEach((e, i) => e.dataset.order = i);"
            "return all.filter(e => e.checkVisibility()).map(e => e.dataset.order)"
        )
        reached: list[str] = []
        for _ in range(len(wanted)):
            driver.switch_to.active_element.send_keys(Keys.TAB)
            order, style, width, top, bottom = driver.execute_script(
                "const e = document.activeElement, s = getComputedStyle(e), b = e.getBoundingClientRect();"
                "return [e.dataset.order, s.outlineStyle, parseFloat(s.outlineWidth), b.top, b.bottom]"
            )
            assert style == "solid", order
            assert width >= 2, order
            assert top < 800, order
            assert bottom > 0, order
            reached.append(order)
        assert reached == wanted
        assert (
            driver.execute_script("return document.querySelector('[data-order=\"0\"]').className") == "skip"
        )


def test_skip_link_and_scroll_boxes_work_by_keyboard(
    browser: Browser, pages: dict[str, Path], tmp_path: Path
) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    with browser.page(pages["whole"], "phone", tmp_path) as driver:
        driver.switch_to.active_element.send_keys(Keys.TAB)
        driver.switch_to.active_element.send_keys(Keys.ENTER)
        assert driver.execute_script("return document.activeElement.id") == "main"
        box = driver.find_element(By.CSS_SELECTOR, "#candidates .scroll")
        wide, inner = driver.execute_script(
            "return [arguments[0].scrollWidth, arguments[0].clientWidth]", box
        )
        assert wide > inner
        box.send_keys(Keys.ARROW_RIGHT)
        left = "return new Promise(r => setTimeout(() => r(arguments[0].scrollLeft), 300))"
        assert driver.execute_script(left, box) > 0
        fold = driver.find_element(By.CSS_SELECTOR, "#gates summary")
        fold.send_keys(Keys.ENTER)
        assert driver.execute_script("return arguments[0].parentElement.open", fold)


def test_paper_has_what_is_folded_away_in_black_on_white(
    browser: Browser, pages: dict[str, Path], tmp_path: Path
) -> None:
    from pypdf import PdfReader

    with browser.page(pages["hostile"], "dark", tmp_path) as driver:
        assert driver.execute_script("return document.querySelectorAll('details[open]').length") == 0
        made = driver.execute_cdp_cmd("Page.printToPDF", {"paperWidth": 8.27, "paperHeight": 11.69})
        document = PdfReader(io.BytesIO(base64.b64decode(made["data"])))
        text = " ".join(" ".join(page.extract_text() for page in document.pages).split())
        for folded in (
            "involuntary_switches",
            '"max_ratio": 0.5',
            "evidence/test/candidate-2.json",
            "steal 7.2 %",
        ):
            assert folded in text, folded
        browser.media("print", "dark")
        colours = "const s = getComputedStyle(document.body); return [s.backgroundColor, s.color]"
        assert driver.execute_script(colours) == ["rgb(255, 255, 255)", "rgb(0, 0, 0)"]
        ink = "return getComputedStyle(document.documentElement).getPropertyValue('--ink')"
        assert driver.execute_script(ink).strip() == "#1b2026"


@pytest.mark.parametrize("mode", ["light", "phone"])
def test_labels_of_50_candidates_keep_apart(
    browser: Browser, pages: dict[str, Path], mode: str, tmp_path: Path
) -> None:
    with browser.page(pages["many"], mode, tmp_path) as driver:
        plot, boxes = driver.execute_script(
            "const seen = e => e.checkVisibility();"
            "const svg = [...document.querySelectorAll('svg.pareto')].filter(seen)[0];"
            "const box = e => { const b = e.getBoundingClientRect(); return [b.left, b.top, b.right, b.bottom] };"
            "const texts = [...svg.querySelectorAll('text.label')];"
            "return [box(svg), texts.map(e => [e.textContent, ...box(e)])]"
        )
        assert len(boxes) > (48 if mode == "light" else 20)
        for (a, *p), (b, *q) in itertools.combinations(boxes, 2):
            # Boxes of a line of text are taller than its letters; two pixels of that may touch.
            apart = p[2] <= q[0] or q[2] <= p[0] or p[3] - 2 <= q[1] or q[3] - 2 <= p[1]
            assert apart, (a, b)
        for a, left, top, right, bottom in boxes:
            assert left >= plot[0] - 1, a
            assert right <= plot[2] + 1, a
            assert top >= plot[1] - 1, a
            assert bottom <= plot[3] + 1, a


@pytest.mark.parametrize("mode", ["light", "phone"])
def test_text_in_drawings_is_legible(
    browser: Browser, pages: dict[str, Path], mode: str, tmp_path: Path
) -> None:
    """No text smaller than ten CSS pixels, however wide the page, and none outside of the page."""
    with browser.page(pages["whole"], mode, tmp_path) as driver:
        found = driver.execute_script(
            "return [...document.querySelectorAll('svg text')].filter(e => e.checkVisibility()).map(e => {"
            "  const b = e.getBoundingClientRect(); const m = e.getScreenCTM();"
            "  return [e.textContent, parseFloat(getComputedStyle(e).fontSize) * Math.hypot(m.a, m.b),"
            "          b.left, b.right, !!e.closest('.scroll')] })"
        )
        assert len(found) > 40
        assert [f for f in found if f[1] < 10] == []
        width = MODES[mode][0]
        assert [f for f in found if not f[4] and (f[2] < 0 or f[3] > width)] == []


def test_hostile_names_stay_names(browser: Browser, pages: dict[str, Path], tmp_path: Path) -> None:
    with browser.page(pages["hostile"], "light", tmp_path) as driver:
        assert "</script><img src=x onerror=window.taken=1>" in driver.title
        sources, scripts, taken, handlers = driver.execute_script(
            "const all = [...document.querySelectorAll('*')];"
            "return [[...document.images].map(i => i.src.slice(0, 14)), document.scripts.length,"
            " typeof window.taken, all.filter(e => [...e.attributes].some(a => a.name.startsWith('on'))).length]"
        )
        assert set(sources) <= {"data:image/png"}
        assert (scripts, taken, handlers) == (0, "undefined", 0)
