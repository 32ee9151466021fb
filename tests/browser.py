"""A headless Chromium, for tests of pages and for pictures of them.

Debian: ``apt-get install chromium chromium-driver``. Its profile is a new folder each time, and it
speaks to nobody.
"""

import base64
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["emulate", "missing", "open_browser", "picture_png", "show"]

_BROWSERS = ("chromium", "chromium-browser", "google-chrome")
_ARGUMENTS = (
    "--headless=new",
    "--no-sandbox",  # containers run as root
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--hide-scrollbars",
    "--force-color-profile=srgb",
    "--font-render-hinting=none",
)


def missing() -> str:
    """Return what is not installed, as the reason for which a test is skipped; empty if nothing."""
    found = next(filter(None, map(shutil.which, _BROWSERS)), None)
    if found is None or shutil.which("chromedriver") is None:
        return "no Chromium here; on Debian: apt-get install chromium chromium-driver"
    return ""


@contextmanager
def open_browser(*, dark: bool = False, width: int = 1100, scripts: bool = True) -> Iterator[Any]:
    """Start a browser and end it; it keeps what it logs and what it asks the network for."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = next(filter(None, map(shutil.which, _BROWSERS)))
    options.add_experimental_option("perfLoggingPrefs", {"enablePage": False})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        for argument in (*_ARGUMENTS, f"--user-data-dir={profile}", f"--window-size={width},900"):
            options.add_argument(argument)
        service = webdriver.ChromeService(executable_path=shutil.which("chromedriver"))
        browser = webdriver.Chrome(options=options, service=service)
        try:
            emulate(browser, dark=dark, width=width)
            if not scripts:
                off = {"value": True}
                browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", off)
            yield browser
        finally:
            browser.quit()


def emulate(browser: Any, *, dark: bool = False, width: int = 1100, on_paper: bool = False) -> None:
    """Have pages drawn dark or light, in a window of that width, or as they are printed."""
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    media = {"media": "print" if on_paper else "screen", "features": [scheme]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    # A window is never narrower than 500 pixels; a screen may be.
    screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)


def show(browser: Any, page: Path, *, anchor: str = "", timeout_s: float = 60) -> None:
    """Open a page and wait until its charts are drawn."""
    from selenium.webdriver.support.ui import WebDriverWait

    browser.get(page.resolve().as_uri() + anchor)
    drawn = "return [...document.querySelectorAll('.chart')].every(c => c.dataset.drawn)"
    WebDriverWait(browser, timeout_s).until(lambda now: now.execute_script(drawn))


def picture_png(browser: Any, selector: str, margin: int = 12) -> bytes:
    """Return an element as a PNG; from its top to the bottom of the last that matches."""
    places = browser.execute_script(
        "return [...document.querySelectorAll(arguments[0])].map(e => {"
        "const r = e.getBoundingClientRect();"
        "return [r.left + scrollX, r.top + scrollY, r.right + scrollX, r.bottom + scrollY]})",
        selector,
    )
    left, top = (min(place[n] for place in places) - margin for n in (0, 1))
    right, bottom = (max(place[n] for place in places) + margin for n in (2, 3))
    clip = {
        "x": max(0, left),
        "y": max(0, top),
        "width": right - max(0, left),
        "height": bottom - max(0, top),
        "scale": 1,
    }
    shot = browser.execute_cdp_cmd(
        "Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip}
    )
    return base64.b64decode(shot["data"])
