"""Artifacts: whole or not at all, resumable at the first missing shard, and rows that add up."""

from pathlib import Path

import pyarrow as pa
import pytest

from mmcsal_core.artifacts import (
    CHUNK_ROWS,
    MANIFEST,
    PLAN,
    SUCCESS,
    Artifact,
    Plan,
    ShardRange,
    compute_fingerprint,
    name_shard,
    plan_ranges,
)
from mmcsal_core.errors import ArtifactError, GateError
from mmcsal_core.schema import reject_schema
from mmcsal_core.storage import PARTIAL, Store
from tests.fault_proxy import open_fault_proxy
from tests.s3_server import REGION

NUM_ROWS = 600


def make_artifact(tmp_path: Path) -> Artifact:
    return Artifact(Store(str(tmp_path)), "pairs", "ingest")


def make_rejects(count: int, reason: str = "unreadable") -> pa.Table:
    row = {"pair_id": "x", "source": "s", "source_row": 0, "modality": None, "stage": "ingest", "reason": reason}
    return pa.Table.from_pylist([{**row, "message": "mend it"}] * count, schema=reject_schema())


def make_rows(shard: ShardRange, num_rejects: int = 0) -> pa.Table:
    return pa.table({"row": pa.array(range(shard.start + num_rejects, shard.stop), pa.int64())})


def begin(artifact: Artifact, fingerprint: str = "f1", rows_per_shard: int = CHUNK_ROWS) -> Plan:
    return artifact.begin(fingerprint, lambda: plan_ranges(NUM_ROWS, rows_per_shard))


def publish(artifact: Artifact, fingerprint: str = "f1") -> Plan:
    plan = begin(artifact, fingerprint)
    for shard in artifact.missing_shards(plan):
        artifact.commit_shard(plan, shard, make_rows(shard))
    artifact.finish(plan)
    return plan


def test_ranges_are_whole_chunks_that_tile_the_rows() -> None:
    ranges = plan_ranges(NUM_ROWS, 300)
    assert [(shard.start, shard.stop) for shard in ranges] == [(0, 512), (512, 600)]
    assert plan_ranges(0, 10) == []
    for rows_per_shard in (1, 256, 257, 10_000):
        ranges = plan_ranges(1500, rows_per_shard)
        assert [shard.start for shard in ranges[1:]] == [shard.stop for shard in ranges[:-1]]
        assert all(shard.start % CHUNK_ROWS == 0 for shard in ranges)
        assert (ranges[0].start, ranges[-1].stop) == (0, 1500)


def test_fingerprint_depends_on_stage_config_and_inputs_not_on_key_order() -> None:
    base = compute_fingerprint("a", {"x": 1, "y": 2}, {"pairs": "f"})
    assert base == compute_fingerprint("a", {"y": 2, "x": 1}, {"pairs": "f"})
    others = [("b", {"x": 1, "y": 2}, "f"), ("a", {"x": 1, "y": 3}, "f"), ("a", {"x": 1, "y": 2}, "g")]
    assert base not in [compute_fingerprint(stage, config, {"pairs": name}) for stage, config, name in others]


def test_nothing_is_readable_before_success(tmp_path: Path) -> None:
    artifact = make_artifact(tmp_path)
    plan = begin(artifact)
    artifact.commit_shard(plan, plan.shards[0], make_rows(plan.shards[0]))
    assert not artifact.is_complete("f1")
    with pytest.raises(ArtifactError, match="not finished; run the stage 'ingest'"):
        artifact.read_manifest()
    with pytest.raises(ArtifactError, match="missing"):
        artifact.finish(plan)
    assert not artifact.store.exists(SUCCESS)


def test_what_must_come_before_success_finds_all_else_written_and_where_it_fails_nothing_is_published(
    tmp_path: Path,
) -> None:
    def fail() -> None:
        assert artifact.store.exists(MANIFEST)
        raise OSError("full")

    artifact = make_artifact(tmp_path)
    plan = begin(artifact)
    for shard in plan.shards:
        artifact.commit_shard(plan, shard, make_rows(shard))
    with pytest.raises(OSError, match="full"):
        artifact.finish(plan, before_success=fail)
    assert not artifact.is_complete("f1")
    artifact.finish(plan)
    assert artifact.is_complete("f1")


def test_a_store_gets_data_before_its_done_marker_and_success_last_without_a_copy(s3_endpoint: str) -> None:
    with open_fault_proxy(s3_endpoint) as proxy:
        artifact = Artifact(Store("s3://commit-order/run", {"endpoint_url": proxy.endpoint}), "pairs", "ingest")
        artifact.run.filesystem.mkdir("commit-order", region_name=REGION)
        plan = begin(artifact, rows_per_shard=512)
        for shard in plan.shards:
            artifact.commit_shard(plan, shard, make_rows(shard, 1), make_rejects(1))
        artifact.finish(plan)
    start = "/commit-order/run/"
    written = [each.path.removeprefix(start) for each in proxy.seen if each.method == "PUT" and start in each.path]
    assert written == [
        "pairs/_plan.json",
        *("pairs/data/part-00000-of-00002.parquet", "pairs/_rejects/part-00000-of-00002.parquet"),
        "pairs/_shards/part-00000-of-00002.json",
        *("pairs/data/part-00001-of-00002.parquet", "pairs/_rejects/part-00001-of-00002.parquet"),
        "pairs/_shards/part-00001-of-00002.json",
        "rejects/data/ingest.parquet",
        "pairs/_manifest.json",
        "pairs/_SUCCESS",
    ]
    assert {request.copy_source for request in proxy.seen} == {None}


def test_finished_artifact_is_complete_for_its_fingerprint_only(tmp_path: Path) -> None:
    artifact = make_artifact(tmp_path)
    publish(artifact)
    assert artifact.is_complete("f1")
    assert not artifact.is_complete("f2")
    assert artifact.read_table()["row"].to_pylist() == list(range(NUM_ROWS))


def test_killed_between_data_and_marker_is_done_again(tmp_path: Path) -> None:
    artifact = make_artifact(tmp_path)
    plan = begin(artifact)
    for shard in plan.shards:
        artifact.commit_shard(plan, shard, make_rows(shard))
    artifact.store.remove(f"_shards/{name_shard(1, 3)}.json")
    resumed = begin(artifact)
    assert [shard.index for shard in artifact.missing_shards(resumed)] == [1]
    artifact.commit_shard(resumed, resumed.shards[1], make_rows(resumed.shards[1]))
    artifact.finish(resumed)
    assert artifact.read_table().num_rows == NUM_ROWS


def test_resumed_run_keeps_the_plan_whatever_the_shard_size(tmp_path: Path) -> None:
    artifact = make_artifact(tmp_path)
    plan = begin(artifact, rows_per_shard=256)
    assert begin(artifact, rows_per_shard=512) == plan


def test_changed_fingerprint_clears_the_artifact(tmp_path: Path) -> None:
    artifact = make_artifact(tmp_path)
    publish(artifact, "f1")
    plan = begin(artifact, "f2")
    assert artifact.store.list_files() == [PLAN]
    assert len(artifact.missing_shards(plan)) == 3


def test_a_worker_that_outlives_its_run_cannot_write_under_another_plan(tmp_path: Path) -> None:
    artifact = make_artifact(tmp_path)
    orphaned = begin(artifact, "f1")
    begin(artifact, "f2")
    with pytest.raises(ArtifactError, match=r"another configuration \(f2 instead of f1\)"):
        artifact.commit_shard(orphaned, orphaned.shards[0], make_rows(orphaned.shards[0]))
    assert artifact.store.list_files() == [PLAN]


def test_markers_without_a_plan_are_not_trusted(tmp_path: Path) -> None:
    artifact = make_artifact(tmp_path)
    publish(artifact)
    artifact.store.remove(SUCCESS)
    artifact.store.remove(PLAN)
    assert len(artifact.missing_shards(begin(artifact))) == 3


def test_leftovers_of_killed_writers_are_gone_when_published(tmp_path: Path) -> None:
    artifact = make_artifact(tmp_path)
    plan = begin(artifact)
    leftover = tmp_path / "pairs" / "data" / f".part.parquet.1{PARTIAL}"
    leftover.parent.mkdir()
    leftover.write_bytes(b"ha")
    for shard in plan.shards:
        artifact.commit_shard(plan, shard, make_rows(shard))
    artifact.finish(plan)
    assert not leftover.exists()


def test_pairs_that_do_not_add_up_are_refused(tmp_path: Path) -> None:
    artifact = make_artifact(tmp_path)
    plan = begin(artifact)
    shard = plan.shards[0]
    with pytest.raises(ArtifactError, match="256 != 255 \\+ 0"):
        artifact.commit_shard(plan, shard, make_rows(shard, 1))
    assert artifact.missing_shards(plan) == list(plan.shards)


def test_rejects_are_counted_and_gathered(tmp_path: Path) -> None:
    artifact = make_artifact(tmp_path)
    plan = begin(artifact)
    for shard, reason in zip(plan.shards, ("unreadable", "empty_text", "unreadable"), strict=True):
        artifact.commit_shard(plan, shard, make_rows(shard, 2), make_rejects(2, reason))
    manifest = artifact.finish(plan, properties={"note": 1})
    assert (manifest.pairs_in, manifest.pairs_out, manifest.pairs_rejected) == (600, 594, 6)
    assert manifest.rejects_by_reason == {"empty_text": 2, "unreadable": 4}
    rejects = artifact.run.child("rejects").read_table("data/ingest.parquet")
    assert rejects["reason"].to_pylist() == ["unreadable"] * 2 + ["empty_text"] * 2 + ["unreadable"] * 2
    assert artifact.read_manifest() == manifest


def test_a_table_of_edges_counts_pairs_apart_from_rows(tmp_path: Path) -> None:
    artifact = make_artifact(tmp_path)
    plan = artifact.begin("f", lambda: plan_ranges(2, 256))
    record = artifact.commit_shard(plan, plan.shards[0], pa.table({"edge": range(10)}), pairs_out=2)
    assert (record.num_rows, record.pairs_out) == (10, 2)


def test_gate_stops_before_success_and_a_raised_limit_lets_it_through(tmp_path: Path) -> None:
    artifact = make_artifact(tmp_path)
    plan = artifact.begin("f", lambda: plan_ranges(10, 256))
    artifact.commit_shard(plan, plan.shards[0], make_rows(plan.shards[0], 4), make_rejects(4))
    with pytest.raises(GateError, match=r"at most 30\.0%.*rejected 40\.0% \(4 of 10: unreadable 4\)"):
        artifact.finish(plan, max_reject_fraction=0.3)
    assert not artifact.store.exists(MANIFEST)
    assert not artifact.store.exists(SUCCESS)
    artifact.finish(plan, max_reject_fraction=0.4)
    assert artifact.is_complete("f")


def test_artifact_without_shards_carries_files(tmp_path: Path) -> None:
    artifact = Artifact(Store(str(tmp_path)), "encoder", "train")
    plan = artifact.begin("f", list)
    record = artifact.store.write_bytes("weights.bin", b"w")
    manifest = artifact.finish(plan, files=[record], num_pairs=7)
    assert (manifest.pairs_in, manifest.pairs_out, manifest.files) == (7, 7, (record,))
    with pytest.raises(ArtifactError, match="no shards"):
        artifact.read_table()


def test_rows_are_read_across_shard_borders(tmp_path: Path) -> None:
    artifact = make_artifact(tmp_path)
    publish(artifact)
    for start, stop in ((0, 1), (250, 260), (256, 512), (100, 600), (599, 600)):
        assert artifact.read_rows(start, stop)["row"].to_pylist() == list(range(start, stop))
    with pytest.raises(ArtifactError, match="has 600 rows; rows 590 to 601"):
        artifact.read_rows(590, 601)


def test_equal_runs_publish_equal_data(tmp_path: Path) -> None:
    first, second = make_artifact(tmp_path / "a"), make_artifact(tmp_path / "b")
    publish(first)
    publish(second)
    assert first.read_manifest().shards == second.read_manifest().shards


def test_shard_names_sort_like_their_numbers() -> None:
    assert name_shard(3, 16) == "part-00003-of-00016"
