"""The door to stores, and a whole job from bucket to bucket, on Google Cloud Storage and Azure Blob Storage."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.config import parse_config
from jobs.progress import JsonReporter
from jobs.run import run_job
from jobs.store_health import probe_store, warn_of_store
from mmcsal_core.corpus.sources.locations import find_files
from mmcsal_core.errors import ArtifactError, DataError
from mmcsal_core.filesystems import open_filesystem
from mmcsal_core.storage import Store
from mmcsal_core.validation import validate_run
from pipelines.stage_names import STAGES
from tests.corpora import write_image_text_parquet
from tests.integration.job_process import call_mmcsal, make_config, read_files, write_config
from tests.stores.emulators import AZURITE_KEY, Emulator, run_az, run_gs

pytestmark = [pytest.mark.stores]

BUCKET = "corpus-bucket"


@pytest.fixture(scope="module", params=["gs", "az"])
def emulator(request: pytest.FixtureRequest) -> Iterator[Emulator]:
    """A store with an empty bucket."""
    with {"gs": run_gs, "az": run_az}[request.param]() as emulator:
        filesystem, path = open_filesystem(f"{emulator.protocol}://{BUCKET}", emulator.options)
        filesystem.mkdir(path)
        yield emulator


def test_a_file_is_written_whole_listed_and_removed(emulator: Emulator) -> None:
    store = Store(f"{emulator.protocol}://{BUCKET}/run", emulator.options)
    assert (store.exists("a"), store.list_files()) == (False, [])
    store.remove()
    assert store.write_bytes("below/a", b"first").num_bytes == 5
    store.write_bytes("below/a", b"second")
    store.write_bytes("_SUCCESS", b"")
    assert store.list_files() == ["_SUCCESS", "below/a"]
    assert [store.exists(name) for name in ("_SUCCESS", "below/a", "below")] == [True, True, False]
    assert (store.read_bytes("below/a"), store.read_bytes("_SUCCESS")) == (b"second", b"")
    table = pa.table({"number": range(1000)})
    store.write_table("table.parquet", table)
    assert store.read_table("table.parquet").equals(table)
    age_s = store.measure_age_s("below/a")
    assert age_s is not None
    assert 0 <= age_s < 60
    with pytest.raises(ArtifactError, match="a file of the run is missing"):
        store.read_bytes("none")
    store.remove("below")
    assert store.list_files() == ["_SUCCESS", "table.parquet"]
    store.remove()
    assert store.list_files() == []


def test_put_if_absent_is_probed(emulator: Emulator) -> None:
    store = Store(f"{emulator.protocol}://{BUCKET}/lock", emulator.options)
    assert store.create_bytes("_lock.json", b"one") is True
    assert store.create_bytes("_lock.json", b"two") is not emulator.is_conditional
    health = probe_store(store)
    assert (health.writable, health.conditional_writes) == (True, emulator.is_conditional)
    assert (warn_of_store(store) is None) == emulator.is_conditional


def test_what_is_missing_is_said(emulator: Emulator) -> None:
    for url in (f"{emulator.protocol}://{BUCKET}/none.parquet", f"{emulator.protocol}://no-such-bucket/none.parquet"):
        with pytest.raises(DataError, match=r"source .* (is missing|cannot be listed)"):
            find_files(url, emulator.options)


@pytest.mark.parametrize("is_nested", [False, True])
def test_from_bucket_to_bucket_like_from_disk_to_disk(
    ray_session: None, emulator: Emulator, tmp_path: Path, is_nested: bool
) -> None:
    corpus = write_image_text_parquet(tmp_path / "pairs.parquet", 300)
    on_disk = parse_config(make_config(corpus, tmp_path / "out"))
    assert run_job(on_disk, JsonReporter()).executed == STAGES
    folder = f"{emulator.protocol}://{BUCKET}/nested-{is_nested}"
    filesystem, path = open_filesystem(folder, emulator.options)
    filesystem.put(str(corpus), f"{path}/pairs.parquet")
    options: dict[str, Any] = {emulator.protocol: emulator.options} if is_nested else emulator.options
    values = make_config(corpus, tmp_path, source_options=options, output_options=emulator.options)
    values["source"]["url"], values["output"] = f"{folder}/pairs.parquet", f"{folder}/out"
    config = parse_config(values)
    assert run_job(config, JsonReporter()).executed == STAGES
    assert run_job(config, JsonReporter()).executed == ()
    assert validate_run(config.run_store).ok
    filesystem.get(f"{path}/out", str(tmp_path / "copy"), recursive=True)
    picks = [
        pq.read_table(next(root.rglob("selection/data"))).drop_columns(["image_uri"]).replace_schema_metadata()
        for root in (tmp_path / "copy", tmp_path / "out")
    ]
    assert picks[0].equals(picks[1])
    assert picks[0].num_rows == 20
    secret = AZURITE_KEY.encode()
    assert not [name for name, data in read_files(tmp_path / "copy").items() if secret in data]


@pytest.mark.parametrize("run", [run_gs, run_az])
def test_a_store_out_of_reach_ends_the_run_with_6(run: Any, tmp_path: Path) -> None:
    with run() as emulator:
        options = emulator.options
    values = make_config(tmp_path / "unused", tmp_path / "out", source_options=options, output_options=options)
    values["source"]["url"] = f"{emulator.protocol}://{BUCKET}/pairs.parquet"
    result = call_mmcsal("run", write_config(tmp_path / "source.yaml", values))
    assert (result.exit_code, "Traceback" in result.output) == (6, False), result.output
    corpus = write_image_text_parquet(tmp_path / "pairs.parquet", 30)
    values["source"]["url"], values["output"] = str(corpus), f"{emulator.protocol}://{BUCKET}/out"
    result = call_mmcsal("run", write_config(tmp_path / "output.yaml", values))
    assert (result.exit_code, "Traceback" in result.output) == (6, False), result.output
