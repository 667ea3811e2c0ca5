"""A real headless Chromium for tests of pages: found on the machine, or installed where that is possible."""

import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")

QUIET = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)

TIMEOUT_S = 90


def find_chromium() -> str | None:
    """Return the path of a Chromium, None where there is none."""
    return next((path for path in map(shutil.which, NAMES) if path is not None), None)


def install_chromium() -> None:
    """Install Debian's Chromium, where we may."""
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        pytest.fail(
            f"the browser tests need one of {', '.join(NAMES)} on PATH; install it, e.g. apt-get install chromium"
        )
    subprocess.run(["apt-get", "update", "-qq"], check=True, timeout=300)
    command = [
        "apt-get",
        "-o",
        "DPkg::Lock::Timeout=600",
        "install",
        "-y",
        "-qq",
        "--no-install-recommends",
        "chromium",
    ]
    subprocess.run(command, check=True, timeout=600, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"})


@dataclass(frozen=True)
class Browser:
    """Chromium without a window; every call starts a new one with an empty profile."""

    path: str

    def render_png(self, page: Path, target: Path, size: tuple[int, int] = (1280, 3000)) -> None:
        """Render a file as a picture of `size` pixels."""
        self._run(page, f"--screenshot={target}", f"--window-size={size[0]},{size[1]}")

    def dump_dom(self, page: Path) -> str:
        """Return the page's DOM as HTML, after its scripts have run."""
        return self._run(page, "--virtual-time-budget=2000", "--dump-dom")

    def _run(self, page: Path, *options: str) -> str:
        with tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as profile:
            command = [self.path, *QUIET, f"--user-data-dir={profile}", *options, page.resolve().as_uri()]
            done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=TIMEOUT_S)
        return done.stdout


@pytest.fixture(scope="session")
def browser() -> Browser:
    """A headless Chromium."""
    if find_chromium() is None:
        install_chromium()
    path = find_chromium()
    assert path is not None
    return Browser(path)
