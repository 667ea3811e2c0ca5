"""A server that speaks the protocol of Google Cloud Storage, and Azurite, which speaks that of Azure Blob Storage."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

AZURITE = Path(sys.prefix) / "azurite" / "node_modules" / "azurite" / "dist" / "src" / "blob" / "main.js"
AZURITE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""Not a secret: every Azurite has this account."""

SERVE_GS = (
    "import sys; from gcp_storage_emulator.server import create_server; "
    "create_server('127.0.0.1', int(sys.argv[1]), in_memory=True).run()"
)

# gcsfs asks for a bucket's layout over gRPC, which the emulator does not speak, and waits a minute for each answer.
os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"


@dataclass(frozen=True)
class Emulator:
    """A store that runs: its protocol, storage options that reach it, and whether it honours put-if-absent."""

    protocol: str
    options: dict[str, Any]
    is_conditional: bool


@contextmanager
def run_gs() -> Iterator[Emulator]:
    """Run the emulator of Google Cloud Storage, which ignores the condition of a conditional write."""
    with _serve(lambda port: [sys.executable, "-c", SERVE_GS, str(port)]) as port:
        options = {"endpoint_url": f"http://127.0.0.1:{port}", "token": "anon", "project": "test"}
        yield Emulator("gs", options, is_conditional=False)


@contextmanager
def run_az() -> Iterator[Emulator]:
    """Run Azurite."""
    options = ["--inMemoryPersistence", "--skipApiVersionCheck", "--silent", "--blobPort"]
    with _serve(lambda port: [f"{sys.prefix}/bin/node", str(AZURITE), *options, str(port)]) as port:
        endpoint = f"http://127.0.0.1:{port}/devstoreaccount1"
        account = f"AccountName=devstoreaccount1;AccountKey={AZURITE_KEY}"
        connection = f"DefaultEndpointsProtocol=http;{account};BlobEndpoint={endpoint};"
        yield Emulator("az", {"connection_string": connection}, is_conditional=True)


@contextmanager
def _serve(make_command: Callable[[int], Sequence[str]], timeout_s: float = 60) -> Iterator[int]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    server = subprocess.Popen(make_command(port), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + timeout_s
        while not _answers(port):
            if server.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{make_command(port)[0]} did not answer on port {port}; run `make test-stores`")
            time.sleep(0.1)
        yield port
    finally:
        server.kill()
        server.wait(timeout=10)


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True
