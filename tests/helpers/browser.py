"""Chromium without a window, for the tests of pages."""

import contextlib
import shutil

import pytest


@contextlib.contextmanager
def browser(folder, *flags):
    """A browser whose files are in ``folder``; the test is skipped where none is installed."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs the extra 'browser'")
    names = ("chromium", "chromium-browser", "google-chrome")
    program = next(filter(None, map(shutil.which, names)), None)
    driver = shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("needs Chromium and its chromedriver (Debian: apt-get install chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for flag in (
        "headless", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", "disable-quic",
        "no-first-run", "disable-background-networking", "disable-component-update", "disable-sync",
        "force-device-scale-factor=1", "window-size=1366,900", f"user-data-dir={folder}", *flags,
    ):  # fmt: skip
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    chromium = webdriver.Chrome(options, webdriver.ChromeService(driver))
    try:
        yield chromium
    finally:
        chromium.quit()


def as_phone(chromium, scheme="light"):
    """A screen of 390 pixels, light or dark."""
    size = dict(width=390, height=844, deviceScaleFactor=1, mobile=True)
    chromium.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    features = [dict(name="prefers-color-scheme", value=scheme)]
    chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", dict(features=features))


def errors(chromium):
    """The errors on the console."""
    return [entry for entry in chromium.get_log("browser") if entry["level"] == "SEVERE"]
