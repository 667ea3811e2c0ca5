import socket
import threading
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import s3fs

from mmcsal_core.corpus.modality import ModalityConfig
from mmcsal_core.corpus.references import Reference, make_reference, parse_reference, read_contents, store_content
from mmcsal_core.corpus.reject import RejectPair
from mmcsal_core.corpus.sources.locations import find_files
from mmcsal_core.corpus.sources.parquet import open_parquet
from mmcsal_core.errors import StoreError
from tests.fault_proxy import Fault, FaultProxy, open_fault_proxy
from tests.s3_server import REGION

IMAGE = ModalityConfig(kind="image")
VECTOR = ModalityConfig(kind="vector")


def _read(uris: Sequence[str | None], **options: Any) -> list[Any]:
    return list(read_contents(pa.table({"x_uri": pa.array(uris, pa.string())}), "x", IMAGE, options))


def _reasons(contents: list[Any]) -> list[str | None]:
    return [content.reason if isinstance(content, RejectPair) else None for content in contents]


@pytest.mark.parametrize("column", ["image", "a b", "x&row=1", "ä#b", "a.b"])
def test_reference_round_trip(column: str) -> None:
    uri = make_reference("s3://bucket/a#1.parquet", column, 12)
    assert parse_reference(uri) == Reference("s3://bucket/a#1.parquet", column, 12)


@pytest.mark.parametrize("uri", ["/a/b.png", "s3://b/x.png#column=a", "/a#row=1", "/a.parquet#column=a&row=x"])
def test_other_uris_are_no_references(uri: str) -> None:
    assert parse_reference(uri) is None


def test_inline_text_and_stored_bytes_come_first() -> None:
    text = pa.table({"x": ["a", None]})
    contents = read_contents(text, "x", ModalityConfig(kind="text"), {})
    assert contents[0] == "a"
    assert _reasons(contents) == [None, "missing_modality"]
    stored = pa.table({"x_uri": ["/nowhere"], "x_bytes": pa.array([b"1"], pa.large_binary())})
    assert read_contents(stored, "x", IMAGE, {}) == [b"1"]


def test_stored_vector_comes_back() -> None:
    vector = np.array([1.5, -2.0], np.float32)
    stored = pa.table({"x_bytes": pa.array([store_content(vector)], pa.large_binary())})
    (restored,) = read_contents(stored, "x", VECTOR, {})
    np.testing.assert_array_equal(restored, vector)


def test_cells_of_every_layout(tmp_path: Path) -> None:
    (tmp_path / "side.png").write_bytes(b"side")
    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    cells = [{"bytes": b"in", "path": "no"}, {"bytes": None, "path": "side.png"}, None, {"bytes": None, "path": None}]
    table = pa.table(
        {
            "s": pa.array(cells, struct),
            "b": [b"0", None, b"2", b"3"],
            "t": ["a", "b", None, "d"],
            "l": pa.array([[1, 2], [3], None, []], pa.list_(pa.float64())),
            "f": pa.array([[1, 2], [3, 4], None, [7, 8]], pa.list_(pa.float32(), 2)),
        }
    )
    file = f"{tmp_path}/a.parquet"
    pq.write_table(table, file, row_group_size=2)

    def read(column: str, rows: list[int]) -> list[Any]:
        return _read([make_reference(file, column, row) for row in rows])

    assert read("s", [1, 0, 0]) == [b"side", b"in", b"in"]
    assert _reasons(read("s", [2, 3])) == ["missing_modality"] * 2
    assert read("b", [3, 0]) == [b"3", b"0"]
    assert _reasons(read("b", [1, 2])) == ["missing_modality", None]
    assert read("t", [3, 1]) == ["d", "b"]
    for column in ["l", "f"]:
        vectors = read(column, [2, 0])
        assert _reasons(vectors) == ["missing_modality", None]
        assert vectors[1].dtype == np.float32
        np.testing.assert_array_equal(vectors[1], [1, 2])
    assert _reasons(read("b", [0, 4])) == [None, "unreadable_file"]
    assert _reasons(read("gone", [0])) == ["unreadable_file"]


def test_many_row_groups_give_every_row_in_any_order(tmp_path: Path) -> None:
    file = f"{tmp_path}/a.parquet"
    pq.write_table(pa.table({"b": [str(i).encode() for i in range(2000)]}), file, row_group_size=700)
    rows = np.random.default_rng(0).permutation(2000)[:500].tolist()
    assert _read([make_reference(file, "b", row) for row in rows]) == [str(row).encode() for row in rows]


def test_a_row_that_cannot_be_read_is_a_value_that_names_its_uri(tmp_path: Path) -> None:
    (tmp_path / "a[1].png").write_bytes(b"brackets")
    (tmp_path / "bad.parquet").write_bytes(b"no parquet")
    uris = [
        f"{tmp_path}/a[1].png",
        f"{tmp_path}/none.png",
        f"file://{tmp_path}/none.png",
        str(tmp_path),
        "nosuch://x/y",
        make_reference(f"{tmp_path}/bad.parquet", "c", 0),
        make_reference(f"{tmp_path}/none.parquet", "c", 0),
        None,
    ]
    contents = _read(uris, endpoint_url="http://for.the.store")
    assert contents[0] == b"brackets"
    assert _reasons(contents)[1:] == [
        "missing_file",
        "missing_file",
        "unreadable_file",
        "unreadable_file",
        "unreadable_file",
        "missing_file",
        "missing_modality",
    ]
    assert all(str(uri) in content.message for uri, content in zip(uris[1:-1], contents[1:-1], strict=True))


def test_objects_of_a_store_and_local_files_mix(tmp_path: Path, s3_endpoint: str) -> None:
    options = {"endpoint_url": s3_endpoint}
    store = s3fs.S3FileSystem(**options)
    store.mkdir("references", region_name=REGION)
    store.pipe_file("references/a.png", b"remote")
    with store.open("references/t.parquet", "wb") as file:
        pq.write_table(pa.table({"b": [b"0", b"1"]}), file)
    (tmp_path / "b.png").write_bytes(b"local")
    cell = make_reference("s3://references/t.parquet", "b", 1)
    uris = ["s3://references/a.png", f"{tmp_path}/b.png", "s3://references/no.png", cell]
    contents = _read(uris, **options)
    assert contents[:2] == [b"remote", b"local"]
    assert _reasons(contents) == [None, None, "missing_file", None]
    assert contents[3] == b"1"
    assert _read(uris[:1], s3=options) == [b"remote"]


@pytest.fixture(scope="module")
def bucket(s3_endpoint: str) -> str:
    """A bucket with three pictures, a Parquet file of two cells and an archive of one picture."""
    store = s3fs.S3FileSystem(endpoint_url=s3_endpoint)
    store.mkdir("refusing", region_name=REGION)
    for name in "abc":
        store.pipe_file(f"refusing/{name}.png", name.encode())
    with store.open("refusing/t.parquet", "wb") as file:
        pq.write_table(pa.table({"b": [b"0", b"1"]}), file)
    return "s3://refusing"


@pytest.fixture
def proxy(s3_endpoint: str) -> Iterator[FaultProxy]:
    with open_fault_proxy(s3_endpoint) as proxy:
        yield proxy


REFUSALS: list[Fault] = ["403", "clock", "token"]


@pytest.mark.parametrize("fault", REFUSALS)
def test_an_object_that_may_not_be_read_is_told_from_a_store_that_refuses_everything(
    bucket: str, proxy: FaultProxy, fault: Fault
) -> None:
    uris, options = [f"{bucket}/{name}.png" for name in "abc"], {"endpoint_url": proxy.endpoint}
    proxy.plan(fault, "GET", "/b.png", times=2)  # refused, and refused again while a.png can be read
    contents = _read(uris, **options)
    assert (contents[0], contents[2]) == (b"a", b"c")
    assert _reasons(contents)[1] == ("unreadable_file" if fault == "token" else "permission_denied")
    proxy.plan(fault, "GET", "/b.png")
    assert _read(uris, **options) == [b"a", b"b", b"c"]
    proxy.plan(fault, "GET", "/b.png", times=2)
    with pytest.raises(StoreError, match=r"refuses s3://refusing/b\.png .* renew the credentials, set the clock right"):
        _read(uris[1:2], **options)
    proxy.forget()
    proxy.plan(fault, "GET", ".png", times=99)
    with pytest.raises(StoreError, match=r"refuses s3://refusing/a\.png"):
        _read(uris, **options)


@pytest.mark.parametrize("fault", REFUSALS)
def test_credentials_that_end_between_two_objects_reject_no_pair(bucket: str, proxy: FaultProxy, fault: Fault) -> None:
    uris = [f"{bucket}/{name}.png" for name in "abc"]
    proxy.plan(fault, "GET", "/b.png", times=99)
    proxy.plan("403", "GET", "/c.png", times=99)
    proxy.plan("pass", "GET", "/a.png")
    proxy.plan(fault, "GET", "/a.png", times=99)
    with pytest.raises(StoreError, match=r"refuses s3://refusing/[bc]\.png"):
        _read(uris, endpoint_url=proxy.endpoint)


@pytest.mark.parametrize("fault", REFUSALS)
def test_a_file_of_many_pairs_that_is_refused_rejects_none(bucket: str, proxy: FaultProxy, fault: Fault) -> None:
    proxy.plan(fault, "HEAD", "", times=99)
    proxy.plan(fault, "GET", "", times=99)
    for uri in (make_reference(f"{bucket}/t.parquet", "b", 0), f"{bucket}/a.tar#member=a.png&start=512&size=3"):
        with pytest.raises(StoreError, match="refuses s3://refusing/"):
            _read([uri], endpoint_url=proxy.endpoint)


def test_a_store_out_of_reach_is_no_rows_fault() -> None:
    options = {"endpoint_url": "http://127.0.0.1:9", "config_kwargs": {"retries": {"max_attempts": 0}}}
    for uri in ["s3://bucket/a.png", make_reference("s3://bucket/a.parquet", "b", 0)]:
        with pytest.raises(StoreError, match=r"cannot be asked for now \(EndpointConnectionError: Could not connect"):
            _read([uri], **options)


@pytest.mark.parametrize("status", [500, 503])
def test_a_store_that_stumbles_rejects_no_pair(status: int) -> None:
    class Overloaded(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_HEAD  # noqa: N815

        def log_message(self, *_: object) -> None:
            """Stay quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Overloaded) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        once = {"retries": {"max_attempts": 0}}
        options = {"endpoint_url": f"http://127.0.0.1:{server.server_port}", "config_kwargs": once}
        for uri in ["s3://bucket/a.png", make_reference("s3://bucket/a.parquet", "b", 0)]:
            with pytest.raises(StoreError, match=rf"{status}|Service Unavailable|Internal Server Error"):
                _read([uri], **options)
        server.shutdown()


@pytest.mark.parametrize("limit", ["sock_read", "total"])
def test_a_web_server_that_accepts_and_never_answers_comes_to_an_end(limit: str) -> None:
    options: dict[str, Any] = {"http": {"client_kwargs": {"timeout": {limit: 0.2}}}}
    with socket.create_server(("127.0.0.1", 0)) as silent:
        site = f"http://127.0.0.1:{silent.getsockname()[1]}"
        cell, member = make_reference(f"{site}/a.parquet", "b", 0), f"{site}/a.tar.gz#member=a.png&start=512&size=3"
        assert _reasons(_read([f"{site}/a.png", cell, member], **options)) == ["unreadable_file"] * 3
        with pytest.raises(StoreError, match=r"cannot be asked for now \(\w*Timeout"):
            find_files(f"{site}/a.csv", options)
        with (
            pytest.raises(StoreError, match=r"cannot be asked for now \(\w*Timeout"),
            open_parquet(f"{site}/b", options),
        ):
            pass


def test_what_is_said_of_a_signed_link_leaves_the_signature_out(s3_endpoint: str) -> None:
    query = "X-Amz-Credential=planted-key&X-Amz-Date=1&X-Amz-Signature=planted-signature"
    absent, dead = _read([f"{s3_endpoint}/no-bucket/a.png?{query}", f"http://127.0.0.1:9/a.png?{query}"])
    assert (absent.reason, dead.reason) == ("missing_file", "unreadable_file")
    for message in (absent.message, dead.message):
        assert "planted" not in message
        assert "/a.png?X-Amz-Credential=***&X-Amz-Date=1&X-Amz-Signature=***" in message
