"""The demo, as `make demo` runs it: the whole job on real pairs."""

from pathlib import Path

import duckdb

from tests.integration.job_process import call_json, call_mmcsal, run_json

ROOT = Path(__file__).parents[2]


def test_make_demo_runs_the_demo() -> None:
    makefile = (ROOT / "Makefile").read_text()
    assert "demo: $(VENV)/.demo\n\t$(BIN)/mmcsal demo\n" in makefile


def test_the_demo_ranks_1903_real_pairs(tmp_path: Path) -> None:
    summary = run_json("demo", tmp_path / "demo")
    assert summary["pairs"] == 1903
    assert summary["num_categories"] == 9
    assert [pick["rank"] for pick in summary["first_picks"]] == list(range(10))
    assert summary["categories_covered_by_random"] - 1 <= summary["categories_covered"] <= 9
    assert summary["similarity"] > summary["similarity_of_random"] + 0.05
    assert "CC BY-SA 4.0" in summary["licence"]
    assert Path(summary["report"]).stat().st_size > 100_000
    total = duckdb.execute(f"SELECT count(*), sum(cluster_weight) FROM '{summary['selection']}'").fetchall()
    assert total == [(100, 1903)]
    again = call_mmcsal("demo", tmp_path / "demo")
    assert (again.exit_code, "Traceback" in again.output) == (0, False)
    assert "The first 20 picks cover" in again.stdout
    assert "CC BY-SA 4.0" in again.stdout
    assert call_json("validate", tmp_path / "demo" / "output" / "run_id=demo")["ok"] is True
