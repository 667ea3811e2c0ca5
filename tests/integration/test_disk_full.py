"""A disk that is full in the middle of a run, the output's or the scratch: exit 6, and with room it goes on."""

import os
import subprocess
from pathlib import Path
from typing import Any

from tests.integration.job_process import (
    FOLDERS,
    MMCSAL,
    call_json,
    make_config,
    read_files,
    read_results,
    write_config,
)

SCRIPT = """
set -u
mount -t tmpfs -o size=64m tmpfs "$OUT"
mount -t tmpfs -o size=64m tmpfs "$TMPDIR"
head -c "$BALLAST" /dev/zero > "$OUT/ballast"
"$@"; echo "code $?"
rm "$OUT/ballast"
mount -o remount,size=1m "$TMPDIR"
"$@"; echo "code $?"
mount -o remount,size=64m "$TMPDIR"
"$@"; echo "code $?"
cp -r "$OUT/run_id=t" "$KEPT"
"""
"""Runs in mount and user namespaces of its own, so that it needs no rights and leaves no mount behind."""


def test_a_full_disk_ends_the_run_resumable(finished: dict[str, Any], dirty_corpus: Path, tmp_path: Path) -> None:
    out, scratch, kept = tmp_path / "out", tmp_path / "scratch", tmp_path / "kept"
    for folder in (out, scratch, kept):
        folder.mkdir()
    config = write_config(tmp_path / "job.yaml", make_config(dirty_corpus, out))
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", SCRIPT, "sh", *MMCSAL, "run", str(config)],
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "OUT": str(out), "TMPDIR": str(scratch), "KEPT": str(kept), "BALLAST": str(63 * 2**20)},
    )
    codes = [line for line in done.stdout.splitlines() if line.startswith("code ")]
    assert codes == ["code 6", "code 6", "code 0"], done.stdout + done.stderr
    assert (done.stderr.count("No space left"), done.stderr.count("set TMPDIR to a folder with more")) == (2, 1)
    assert "Traceback" not in done.stderr
    run = kept / "run_id=t"
    assert call_json("validate", run)["ok"] is True
    reference = Path(finished["output"]) / "run_id=t"
    for name in FOLDERS.values():
        assert read_results(run / name) == read_results(reference / name), name
    assert not [name for name in read_files(run) if name.endswith(".partial")]
