"""The page of a study in a real browser: nothing breaks, nothing sticks out, it prints.

With selenium and a chromedriver the pages are driven; where only Chromium itself is there, it is asked by its command
line, with a frame of a phone's width in place of a phone.
"""

from __future__ import annotations

import base64
import html as escaping
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from test_report_study import page, study

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
BROWSER = next((path for path in map(shutil.which, NAMES) if path), None)
DRIVER = shutil.which("chromedriver") if find_spec("selenium") else None
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
         "--no-first-run", "--disable-background-networking", "--disable-component-update")  # fmt: skip
PHONE, DESK = 390, 1200

pytestmark = pytest.mark.skipif(BROWSER is None, reason=f"no browser: none of {', '.join(NAMES)} is installed")

#: What a page tells about itself at a width, run inside it. Phones widen their window to what sticks out of it, so that
#: the window's own width proves nothing.
ASK = """((width) => {
  const wide = document.documentElement.scrollWidth - width;
  const out = [...document.querySelectorAll('body *')].filter(one => !one.closest('.table')
    && one.getBoundingClientRect().right > width + 1).map(one => one.tagName);
  const images = [...document.images].map(one => [one.alt, one.naturalWidth]);
  const nav = document.querySelector('nav');
  const tables = [...document.querySelectorAll('.table')].map(one => getComputedStyle(one).overflowX);
  return {wide, out, images, tables, contents: nav ? getComputedStyle(nav).display : 'none'};
})"""


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "study.html"
    path.write_text(page(), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A driven browser, or None where no driver is at hand."""
    if DRIVER is None:
        yield None
        return
    webdriver = import_module("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = str(BROWSER)
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    found = webdriver.Chrome(
        options=options, service=webdriver.ChromeService(DRIVER)
    )  # the path given: selenium downloads nothing
    try:
        yield found
    finally:
        found.quit()


def chromium(*options: str, folder: Path) -> subprocess.CompletedProcess[str]:
    call = [str(BROWSER), *FLAGS, f"--user-data-dir={folder / 'profile'}", *options]
    return subprocess.run(call, capture_output=True, text=True, timeout=120, check=False)


def asked(driver: Any, address: Path, width: int, folder: Path) -> tuple[dict[str, Any], list[str]]:
    """What the page tells at a width, and what the console has to complain of."""
    if driver is not None:
        size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        driver.get(address.as_uri())
        answer: dict[str, Any] = driver.execute_script(f"return {ASK}({width})")
        return answer, [entry["message"] for entry in driver.get_log("browser")]
    inner = escaping.escape(address.read_text(encoding="utf-8"), quote=True)
    outer = (
        f'<!doctype html><body><iframe width="{width}" height="800" style="border:0" srcdoc="{inner}"></iframe><script>'
        "onload = () => { const told = frames[0].eval(" + json.dumps(f"{ASK}({width})") + ");"
        "document.body.innerHTML = '';"
        "const note = document.createElement('pre'); note.id = 'told'; note.textContent = JSON.stringify(told);"
        "document.body.append(note); }</script></body>"
    )
    frame = folder / f"frame{width}.html"
    frame.write_text(outer, encoding="utf-8")
    options = ("--enable-logging=stderr", "--virtual-time-budget=5000", "--window-size=1300,900", "--dump-dom")
    done = chromium(*options, frame.as_uri(), folder=folder)
    told = re.search(r'<pre id="told">(.*?)</pre>', done.stdout, flags=re.S)
    assert told is not None, done.stderr[-500:]
    return json.loads(escaping.unescape(told[1])), re.findall(r".*CONSOLE.*", done.stderr)


@pytest.mark.parametrize("width", [PHONE, DESK])
def test_page_fits_and_nothing_complains(driver: Any, address: Path, tmp_path: Path, width: int) -> None:
    told, console = asked(driver, address, width, tmp_path)
    assert console == []
    assert told["wide"] <= 0 and told["out"] == []
    assert len(told["images"]) == len(study().pictures)
    assert all(alt and drawn > 0 for alt, drawn in told["images"])
    assert set(told["tables"]) == {"auto"}  # what is wider than the page scrolls inside
    assert told["contents"] == ("block" if width == DESK else "none")


def test_page_prints(driver: Any, address: Path, tmp_path: Path) -> None:
    if driver is not None:
        driver.get(address.as_uri())
        printed = base64.b64decode(driver.execute_cdp_cmd("Page.printToPDF", {"preferCSSPageSize": True})["data"])
    else:
        target = tmp_path / "study.pdf"
        done = chromium("--no-pdf-header-footer", f"--print-to-pdf={target}", address.as_uri(), folder=tmp_path)
        assert target.is_file(), done.stderr[-500:]
        printed = target.read_bytes()
    assert printed.startswith(b"%PDF") and printed.rstrip().endswith(b"%%EOF")
    assert len(re.findall(rb"/Type\s*/Page\b(?!s)", printed)) > 3
