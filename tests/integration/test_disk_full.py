"""A disk that is full in the middle of a run: exit 6, and once there is room the run goes on to the same selection."""

import os
import subprocess
from pathlib import Path
from typing import Any

from tests.integration.job_process import MMCSAL, call_json, make_config, read_files, write_config

SCRIPT = """
set -u
mount -t tmpfs -o size=64m tmpfs "$OUT"
head -c "$BALLAST" /dev/zero > "$OUT/ballast"
"$@"; echo "code $?"
rm "$OUT/ballast"
"$@"; echo "code $?"
cp -r "$OUT/run_id=t" "$KEPT"
"""
"""Runs in mount and user namespaces of its own, so that it needs no rights and leaves no mount behind."""


def test_a_full_disk_ends_the_run_resumable(finished: dict[str, Any], dirty_corpus: Path, tmp_path: Path) -> None:
    out, kept = tmp_path / "out", tmp_path / "kept"
    out.mkdir()
    kept.mkdir()
    config = write_config(tmp_path / "job.yaml", make_config(dirty_corpus, out))
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", SCRIPT, "sh", *MMCSAL, "run", str(config)],
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "OUT": str(out), "KEPT": str(kept), "BALLAST": str(63 * 2**20)},
    )
    codes = [line for line in done.stdout.splitlines() if line.startswith("code ")]
    assert codes == ["code 6", "code 0"], done.stdout + done.stderr
    assert "No space left" in done.stderr
    assert "Traceback" not in done.stderr
    run = kept / "run_id=t"
    assert call_json("validate", run)["ok"] is True
    reference = Path(finished["output"]) / "run_id=t"
    assert read_files(run / "selection" / "data") == read_files(reference / "selection" / "data")
    assert not [name for name in read_files(run) if name.endswith(".partial")]
