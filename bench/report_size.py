"""How heavy and how quick the HTML report is: a synthetic run of 50 artifacts, opened in a real browser.

Prints the bytes of the page, the seconds it takes to make, and the milliseconds until a headless Chromium has loaded
it (navigation timing, ``loadEventEnd``): the first load, then the median of the following ones. Without Chromium and
its driver the last line says so.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

from edgekd.report import render

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))

from fixtures_pages import make_page_run

_MEGABYTES, _MILLISECONDS = 5.0, 2000.0


def load_times_ms(page: Path, loads: int) -> list[float] | None:
    """Milliseconds of each load of a page; None where there is no browser."""
    browser, driver = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
    if not (browser and driver):
        return None
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1280,900"):
        options.add_argument(argument)
    chrome = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    try:
        found = []
        for _ in range(loads):
            chrome.get(page.as_uri())
            script = "return performance.getEntriesByType('navigation')[0].loadEventEnd"
            found.append(float(chrome.execute_script(script)))
        return found
    finally:
        chrome.quit()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--artifacts", type=int, default=50, help="candidates, at most 50 (default: %(default)s)"
    )
    parser.add_argument(
        "--rows", type=int, default=5000, help="examples of each evaluation (default: %(default)s)"
    )
    parser.add_argument("--slices", type=int, default=10, help="values of the slice (default: %(default)s)")
    parser.add_argument(
        "--loads", type=int, default=6, help="how often the page is opened (default: %(default)s)"
    )
    parser.add_argument("--keep", type=Path, help="leave the run folder, with its report.html, here")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = args.keep or Path(place)
        make_page_run(folder, candidates=args.artifacts, n=args.rows, sites=args.slices, calls=100)
        start = time.perf_counter()
        text = render(folder, "html").encode()
        seconds = time.perf_counter() - start
        page = folder / "report.html"
        page.write_bytes(text)
        loads = load_times_ms(page, args.loads)
    megabytes = len(text) / 1e6
    print(f"{args.artifacts} artifacts of {args.rows:,} rows, {args.slices} slices")
    print(
        f"weight  {len(text):,} bytes = {megabytes:.2f} MB (target < {_MEGABYTES:g} MB: {_met(megabytes, _MEGABYTES)})"
    )
    print(f"made    in {seconds:.2f} s")
    if loads is None:
        print("opened  not measured: Chromium is not installed: apt install chromium chromium-driver")
        return
    later = statistics.median(loads[1:]) if len(loads) > 1 else loads[0]
    print(
        f"opened  in {loads[0]:.0f} ms the first time, {later:.0f} ms in the median of {len(loads) - 1} more "
        f"(target < {_MILLISECONDS:g} ms: {_met(max(loads), _MILLISECONDS)})"
    )


def _met(value: float, below: float) -> str:
    return "met" if value < below else "MISSED"


if __name__ == "__main__":
    main()
