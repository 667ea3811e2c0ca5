"""Tar archives of samples, written on the spot."""

import bz2
import gzip
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa


def write_tar(path: Path, members: list[tuple[str, bytes]], mode: str = "w") -> Path:
    """Write members in order."""
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def make_members(num_samples: int) -> list[tuple[str, bytes]]:
    """Make the members of samples of a picture, a text and a JSON object."""
    members = []
    for i in range(num_samples):
        values = {"width": i, "mixed": i if i % 2 else f"<{i}>", "exif": {"b": 1, "a": [i]}, "other": "left out"}
        members.append((f"d/{i:03d}.jpg", np.random.default_rng(i).bytes(400 * (i + 1))))
        members.append((f"d/{i:03d}.txt", f"text {i}".encode()))
        members.append((f"d/{i:03d}.json", json.dumps(values).encode()))
    return members


def pack(path: Path, ending: str) -> Path:
    """Write a compressed copy of an archive."""
    packed, data = path.with_name(f"{path.stem}{ending}"), path.read_bytes()
    if ending == ".tar.zst":
        packed.write_bytes(pa.Codec("zstd").compress(data, asbytes=True))
    else:
        packed.write_bytes(bz2.compress(data) if ending == ".tar.bz2" else gzip.compress(data))
    return packed
