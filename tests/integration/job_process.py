"""Run `mmcsal` as its users do: as a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from typer.testing import CliRunner, Result

from jobs.cli import app

MMCSAL = [sys.executable, "-W", "ignore", "-m", "jobs"]

QUICK_ENCODER = {
    "dim": 32,
    "hidden_width": 64,
    "epochs": 4,
    "batch_size": 64,
    "prototype_refresh_epochs": 1,
    "out_of_fold_epochs": 1,
}

FOLDERS = {
    "ingest": "pairs",
    "features": "features",
    "train": "encoder",
    "embed": "embeddings",
    "neighbors": "neighbors",
    "coreset": "selection",
    "report": "report",
}
"""What each stage publishes, in the order of the stages."""


def make_config(corpus: Path, output: Path, **changes: Any) -> dict[str, Any]:
    """Describe a quick job on a corpus made by `tests.corpora.write_image_text_parquet`."""
    values: dict[str, Any] = {
        "run_id": "t",
        "output": str(output),
        "source": {"kind": "parquet", "url": str(corpus), "pair_id_column": "id"},
        "modalities": {"image": {"column": "image", "image_size": 32}, "text": {"column": "caption"}},
        "encoder": QUICK_ENCODER,
        "neighbors": {"num_neighbors": 16},
        "selection": {"budget": 20, "kernel": {"bandwidth_neighbor": 10}},
        "report": {"gallery_size": 8, "num_random_draws": 3},
        "resources": {"rows_per_shard": 256},
    }
    return values | changes


def write_config(path: Path, values: dict[str, Any]) -> Path:
    """Write a configuration as YAML."""
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return path


PRIVATE_DISK = """
kept=$(cat "$CONFIG")
mount -t tmpfs tmpfs "$TMPDIR"
printf "%s" "$kept" > "$CONFIG"
exec "$@"
"""
"""Runs in mount and user namespaces of its own: what it writes to the folder no other process sees."""


def start_mmcsal(*arguments: str | Path, cwd: Path | None = None, private: Path | None = None) -> subprocess.Popen[str]:
    """Start a command without waiting for it.

    Args:
        arguments: of the command; the second one is its configuration.
        cwd: working directory.
        private: a folder that holds the configuration and is the place for temporary files, where the command gets a
            disk of its own; no worker of a cluster can read it.
    """
    command, environment = [*MMCSAL, *map(str, arguments)], {"PYTHONPATH": str(Path(__file__).parents[2])}
    if private is not None:
        command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", PRIVATE_DISK, "sh", *command]
        environment |= {"TMPDIR": str(private), "CONFIG": str(arguments[1])}
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env={**os.environ, **environment},
    )


def run_mmcsal(*arguments: str | Path, cwd: Path | None = None, private: Path | None = None, expect: int = 0) -> str:
    """Run a command to its end, check its exit code, return its stdout, or its stderr where it fails as expected."""
    with start_mmcsal(*arguments, cwd=cwd, private=private) as process:
        out, err = process.communicate(timeout=300)
    assert process.returncode == expect, f"exit {process.returncode}\n{out}\n{err}"
    assert "Traceback" not in err
    assert "streaming_executor" not in err  # Ray Data keeps what it does to itself
    return out if expect == 0 else err


def call_mmcsal(*arguments: str | Path) -> Result:
    """Call the command in this process, which is what `mmcsal` does in its own."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def run_json(*arguments: str | Path, cwd: Path | None = None, private: Path | None = None) -> dict[str, Any]:
    """Run a command with `--json` and return its result."""
    return dict(json.loads(run_mmcsal(*arguments, "--json", cwd=cwd, private=private)))


def call_json(*arguments: str | Path) -> dict[str, Any]:
    """Call the command in this process with `--json` and return its result."""
    result = call_mmcsal(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return dict(json.loads(result.stdout))


def read_files(folder: Path) -> dict[str, bytes]:
    """Return the bytes of every file below a folder, by its name relative to it."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def read_results(artifact: Path) -> dict[str, bytes]:
    """Return the files of an artifact that hold no time of day."""
    return {name: data for name, data in read_files(artifact).items() if name != "_manifest.json"}
