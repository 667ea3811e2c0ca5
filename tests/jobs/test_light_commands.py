"""Commands that run no stage do not wait for what stages import."""

import subprocess
import sys
from pathlib import Path

import pytest

import pipelines
from pipelines.stage_names import EVALUATE, STAGES

HEAVY = {"torch", "ray.data", "sklearn", "scipy.stats", "matplotlib", "pandas", "duckdb"}


@pytest.mark.parametrize("modules", ["jobs.cli", "jobs.cli, jobs.check"], ids=["help and status", "validate"])
def test_no_stage_is_imported_until_it_runs(modules: str) -> None:
    code = f"import sys, {modules}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=Path(__file__).parents[2]
    )
    loaded = set(done.stdout.split())
    assert loaded & HEAVY == set()


def test_every_stage_is_found_under_its_name() -> None:
    assert [getattr(pipelines, name).STAGE for name in (*STAGES, EVALUATE)] == [*STAGES, EVALUATE]
    with pytest.raises(AttributeError, match="module 'pipelines' has no attribute 'nothing'"):
        pipelines.nothing  # noqa: B018  looked up, not used
