"""One module opens file systems, so that time-outs, options and errors are the same for whatever is read or written."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOOR = ROOT / "mmcsal_core" / "filesystems.py"

OPENERS = ("fsspec", "s3fs", "gcsfs", "adlfs", "boto3", "aiobotocore", "pyarrow.fs", "urllib.request", "requests")
"""Packages that reach files and stores by themselves."""

HARMLESS = {
    "fsspec",
    *("fsspec.available_protocols", "fsspec.available_protocols()"),
    *("fsspec.utils.get_protocol", "fsspec.utils.get_protocol()"),
    "fsspec.exceptions.FSTimeoutError",
    "fsspec.implementations.local.LocalFileSystem",  # to ask whether a file system is one, not to make one
}
"""What of them opens nothing."""


def _spell(node: ast.expr, imported: dict[str, str]) -> str | None:
    if isinstance(node, ast.Name):
        return imported.get(node.id)
    owner = _spell(node.value, imported) if isinstance(node, ast.Attribute) else None
    return f"{owner}.{node.attr}" if owner is not None and isinstance(node, ast.Attribute) else None


def _iter_names(code: str) -> Iterator[str]:
    """Yield the full names of all that a module imports and uses of its imports; what is called ends with ()."""
    tree = ast.parse(code)
    imported: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {each.asname or each.name.split(".")[0]: each.name for each in node.names if each.asname}
            imported |= {each.name.split(".")[0]: each.name.split(".")[0] for each in node.names if not each.asname}
            yield from (each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            imported |= {each.asname or each.name: f"{node.module}.{each.name}" for each in node.names}
            yield from (f"{node.module}.{each.name}" for each in node.names)
    for node in ast.walk(tree):
        name = (
            _spell(node.func if isinstance(node, ast.Call) else node, imported) if isinstance(node, ast.expr) else None
        )
        if name is not None:
            yield f"{name}()" if isinstance(node, ast.Call) else name


def find_openers(code: str) -> set[str]:
    """Return what a module uses to open files past the door."""
    return {
        name for name in _iter_names(code) if f"{name}.".startswith(tuple(f"{each}." for each in OPENERS))
    } - HARMLESS


def test_no_other_module_opens_a_file_system() -> None:
    modules = [path for folder in ("mmcsal_core", "pipelines", "jobs") for path in (ROOT / folder).rglob("*.py")]
    found = {path: find_openers(path.read_text()) for path in modules}
    assert "fsspec.core.url_to_fs()" in found.pop(DOOR)
    assert {str(path.relative_to(ROOT)): names for path, names in found.items() if names} == {}


@pytest.mark.parametrize(
    "code",
    [
        "import s3fs",
        "import fsspec\nfsspec.open('a')",
        "import fsspec as files\nfiles.core.url_to_fs('a')",
        "import fsspec.core",
        "from fsspec import filesystem",
        "from fsspec.core import url_to_fs as resolve",
        "from fsspec.implementations.local import LocalFileSystem\nLocalFileSystem()",
        "from pyarrow import fs",
        "def read():\n    from gcsfs import GCSFileSystem",
    ],
)
def test_another_door_would_be_found(code: str) -> None:
    assert find_openers(code)
