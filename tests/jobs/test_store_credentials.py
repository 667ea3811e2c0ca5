"""Whose credentials a request carries: what the configuration says of source and output, seen by the store itself."""

import io
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import s3fs

from mmcsal_core.corpus.sources.locations import find_files
from mmcsal_core.storage import Store
from tests.corpora import write_image_text_parquet
from tests.fault_proxy import FaultProxy, open_fault_proxy
from tests.integration.job_process import call_mmcsal, make_config, write_config
from tests.s3_server import REGION

PROFILES = """
[reader]
aws_access_key_id = AKIDREADER
aws_secret_access_key = secret-of-reader
[writer]
aws_access_key_id = AKIDWRITER
aws_secret_access_key = secret-of-writer
"""


@pytest.fixture(scope="module")
def corpus_url(s3_endpoint: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    bucket = s3fs.S3FileSystem(endpoint_url=s3_endpoint)
    bucket.mkdir("credentials", region_name=REGION)
    corpus = write_image_text_parquet(tmp_path_factory.mktemp("corpus") / "pairs.parquet", 30)
    bucket.put(str(corpus), "credentials/corpus/pairs.parquet", ACL="public-read")
    return "s3://credentials/corpus/pairs.parquet"


@pytest.fixture
def proxy(s3_endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """A store that tells who asked; profiles lie beside the keys that stand in the environment."""
    (tmp_path / "credentials").write_text(PROFILES)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    with open_fault_proxy(s3_endpoint) as proxy:
        yield proxy


def _list_keys(proxy: FaultProxy, part: str = "") -> set[str | None]:
    """Return the ids of the keys that requests with `part` in their path were signed with, None for those of nobody."""
    signatures = {request.authorization for request in proxy.seen if part in request.path}
    return {each and each.partition("Credential=")[2].partition("/")[0] for each in signatures}


@pytest.mark.parametrize(
    ("options", "key"),
    [({"profile": "reader"}, "AKIDREADER"), ({"anon": True}, None), ({}, "test"), ({"key": "K", "secret": "S"}, "K")],
    ids=["a profile", "nobody", "the environment", "a key"],
)
def test_a_store_is_asked_as_the_options_say(
    corpus_url: str, proxy: FaultProxy, options: dict[str, object], key: str | None
) -> None:
    chosen = {"endpoint_url": proxy.endpoint, **options}
    assert len(find_files(corpus_url, chosen).files) == 1
    store = Store("s3://credentials/corpus", chosen)
    assert pq.ParquetFile(io.BytesIO(store.read_bytes("pairs.parquet"))).metadata.num_rows == 30
    if key is not None:
        store.write_bytes("a", b"data")
        assert store.create_bytes("a", b"data") is False
        store.remove("a")
    assert _list_keys(proxy) == {key}
    assert {request.method for request in proxy.seen} >= ({"GET"} if key is None else {"GET", "PUT", "POST"})


def test_the_job_reads_as_one_profile_and_writes_as_another(corpus_url: str, proxy: FaultProxy, tmp_path: Path) -> None:
    endpoint = {"endpoint_url": proxy.endpoint}
    values = make_config(Path(), tmp_path, source_options={**endpoint, "profile": "reader"})
    values |= {"output": "s3://credentials/out", "output_options": {**endpoint, "profile": "writer"}}
    values["source"]["url"] = corpus_url
    config = write_config(tmp_path / "job.yaml", values)
    result = call_mmcsal("run", config, "--until", "ingest")
    assert result.exit_code == 0, result.output
    assert _list_keys(proxy, "/corpus/pairs.parquet") == {"AKIDREADER"}
    assert _list_keys(proxy, "/out/run_id%3Dt") == {"AKIDWRITER"}
    assert _list_keys(proxy) == {"AKIDREADER", "AKIDWRITER"}
    proxy.seen.clear()
    public = ("--set", f"source_options={{anon: true, endpoint_url: '{proxy.endpoint}'}}", "--set", "run_id=public")
    assert call_mmcsal("run", config, "--until", "ingest", *public).exit_code == 0
    assert _list_keys(proxy, "/corpus/pairs.parquet") == {None}
    assert _list_keys(proxy, "/out/run_id%3Dpublic") == {"AKIDWRITER"}
