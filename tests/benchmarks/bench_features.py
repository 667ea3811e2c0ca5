"""The features stage through Ray Data against the bare loop over the same pairs, and what memory its workers take.

`make bench-features` runs it and writes docs/throughput.md. The same code decodes, embeds and publishes on both sides,
on the same cores: all of the machine, where the loop has a thread a core and the stage an actor a core, and one core,
where a ratio of 1 means that Ray takes nothing. Each side starts anew in a process of its own. All of its time counts
but for the start of Ray itself: workers that start, backbones that are loaded. Sources are a Parquet file on disk, and
the same file in a real S3 server on this machine.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import s3fs

from jobs.cluster import connect_ray
from jobs.config import JobConfig, parse_config
from jobs.progress import JsonReporter
from jobs.run import run_job
from jobs.steps import lay_out
from mmcsal_core.artifacts import Artifact, plan_ranges
from mmcsal_core.corpus.decode_chunk import ChunkDecoder
from pipelines.features import STAGE, load_embedder
from pipelines.shard_decoder import decode_shard
from tests.benchmarks.selection_machine import describe_machine
from tests.corpora import make_image_text_table
from tests.integration.job_process import make_config
from tests.s3_server import REGION, run_s3_server

ROOT = Path(__file__).parents[2]
NUM_DRAWN = 2048
IMAGE_PX = {"light": 32, "heavy": 128}
NUM_PAIRS = {"light": 204_800, "heavy": 20_480}
ROWS_PER_SHARD = 1024
HELD_TO = 0.9
BUCKET = "corpus"


def write_corpus(path: Path, num_pairs: int) -> Path:
    """Write so many pairs, drawings and captions of which come again and again under new ids."""
    drawn = make_image_text_table(NUM_DRAWN)
    schema = drawn.schema
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, num_pairs, NUM_DRAWN):
            table = drawn.slice(0, min(NUM_DRAWN, num_pairs - start))
            ids = pa.array([f"p{start + i:08d}" for i in range(table.num_rows)])
            writer.write_table(table.set_column(0, schema.field(0), ids), row_group_size=512)
    return path


def configure(source: str, options: dict[str, Any], output: Path, backbone: str) -> dict[str, Any]:
    """Describe a job up to its features."""
    values = make_config(Path("unused"), output, resources={"rows_per_shard": ROWS_PER_SHARD}, source_options=options)
    values["source"]["url"] = source
    values["modalities"]["image"]["image_size"] = IMAGE_PX[backbone]
    return values


def time_bare_loop(config: JobConfig) -> dict[str, float]:
    """Decode, embed and publish all pairs in this process; return pairs a second."""
    pairs, out = lay_out(config).pairs, Artifact(config.run_store.child("bare"), "features", STAGE)
    num_pairs = pairs.read_manifest().pairs_out
    started = time.perf_counter()
    decoder = ChunkDecoder(config.modalities, config.source_options, {})
    embedder = load_embedder(decoder, config.features, config.resources)
    plan = out.begin("bare", lambda: plan_ranges(num_pairs, config.resources.rows_per_shard))
    for shard in plan.shards:
        features, rejects = embedder.embed_shard(decode_shard(pairs, shard, decoder, STAGE))
        out.commit_shard(plan, shard, features, rejects)
    return {"pairs_per_s": num_pairs / (time.perf_counter() - started)}


def time_stage(config: JobConfig) -> dict[str, float]:
    """Run the features stage; return pairs a second."""
    with connect_ray(config.ray, config.resources):
        started = time.perf_counter()
        run_job(config, JsonReporter(), until="features")
        seconds = time.perf_counter() - started
    return {"pairs_per_s": lay_out(config).features.read_manifest().pairs_in / seconds}


class MemoryWatch(threading.Thread):
    """Watches what this process's descendants hold by themselves, which leaves out Ray's shared object store."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._is_over = threading.Event()
        self.peaks: dict[str, float] = {}

    def run(self) -> None:
        while not self._is_over.wait(0.25):
            for process in psutil.Process().children(recursive=True):
                try:
                    name, memory = " ".join(process.cmdline()), process.memory_info()
                except psutil.Error:
                    continue
                for kind in ("_EmbedAndCommit", "decode_batch"):
                    if kind in name:
                        held = (memory.rss - memory.shared) / 2**20
                        self.peaks[kind] = max(self.peaks.get(kind, 0.0), held)

    def stop(self) -> dict[str, float]:
        """Return the peak of an actor and of a reader, in MiB."""
        self._is_over.set()
        self.join()
        return self.peaks


def watch_stage(config: JobConfig) -> dict[str, float]:
    """Run the features stage under the watch, which takes time of its own; return peaks of memory."""
    with connect_ray(config.ray, config.resources):
        watch = MemoryWatch()
        watch.start()
        run_job(config, JsonReporter(), until="features")
    return watch.stop()


SIDES: dict[str, Callable[[JobConfig], dict[str, float]]] = {
    "loop": time_bare_loop,
    "stage": time_stage,
    "memory": watch_stage,
}


def measure(side: str, values: dict[str, Any], num_cores: int) -> dict[str, float]:
    """Measure one side in a new process that is bound to the first cores."""
    arguments = [side, json.dumps(values), str(num_cores)]
    command = [sys.executable, "-m", "tests.benchmarks.bench_features", "--measure", *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True, cwd=ROOT)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def measure_here(side: str, values: dict[str, Any], num_cores: int) -> None:
    """Measure one side in this process and print what came of it."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:num_cores])
    print(json.dumps(SIDES[side](parse_config(values))))


@contextmanager
def serve_corpus(corpus: Path) -> Iterator[dict[str, tuple[str, dict[str, Any]]]]:
    """Yield where the corpus lies, with storage options: on disk, and on an S3 server that runs meanwhile."""
    with run_s3_server() as endpoint:
        options = {"endpoint_url": endpoint}
        store = s3fs.S3FileSystem(**options, skip_instance_cache=True)
        store.mkdir(BUCKET, region_name=REGION)
        store.put(str(corpus), f"{BUCKET}/{corpus.name}")
        yield {"disk": (str(corpus), {}), "S3": (f"s3://{BUCKET}/{corpus.name}", options)}


def compare_throughput(folder: Path, backbone: str) -> Iterator[dict[str, Any]]:
    """Measure both sides for a backbone: on all cores from both sources, on one core from disk."""
    num_pairs, all_cores = NUM_PAIRS[backbone], len(os.sched_getaffinity(0))
    with serve_corpus(write_corpus(folder / f"{backbone}.parquet", num_pairs)) as places:
        for place, num_cores in (("disk", all_cores), ("S3", all_cores), ("disk", 1)):
            url, options = places[place]
            values = configure(url, options, folder / f"{backbone}-{place}-{num_cores}", backbone)
            run_job(parse_config(values), JsonReporter(), until="ingest")
            readers = {"num_readers": int(num_cores > 1)}
            resources = {"loop": {"cpus_per_actor": num_cores}, "stage": {"num_actors": num_cores, **readers}}
            rates = {
                side: measure(side, values | {"resources": values["resources"] | asked}, num_cores)["pairs_per_s"]
                for side, asked in resources.items()
            }
            yield {"backbone": backbone, "place": place, "cores": num_cores, "pairs": num_pairs, **rates}


def compare_memory(folder: Path, sizes: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Measure the workers' peaks on corpora of several sizes, on all cores."""
    for num_pairs in sizes:
        corpus = write_corpus(folder / f"{num_pairs}.parquet", num_pairs)
        values = configure(str(corpus), {}, folder / f"memory-{num_pairs}", "light")
        run_job(parse_config(values), JsonReporter(), until="ingest")
        yield {"pairs": num_pairs, **measure("memory", values, len(os.sched_getaffinity(0)))}


def tell(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Print each row as it comes, and return them all."""
    told = []
    for row in rows:
        print(json.dumps(row), flush=True)
        told.append(row)
    return told


def describe_least(throughput: Sequence[dict[str, Any]], num_cores: int) -> str:
    """Say how the stage does at worst on so many cores, against the 0.9 of the loop that it is held to."""
    rows = [row for row in throughput if row["cores"] == num_cores]
    least = min(rows, key=lambda row: float(row["stage"] / row["loop"]))
    ratio = least["stage"] / least["loop"]
    verdict = "holds" if ratio >= HELD_TO else "does not hold"
    return (
        f"- On {num_cores} core{'s' if num_cores > 1 else ''}, at least {HELD_TO} of the loop: **{verdict}**; "
        f"the least is {ratio:.3f} ({least['backbone']}, {least['place']})."
    )


def write_document(throughput: Sequence[dict[str, Any]], memory: Sequence[dict[str, Any]]) -> str:
    """Return the page."""
    machine = describe_machine(("torch", "ray", "pyarrow"))
    lines = [
        "# Throughput and memory of the features stage",
        "",
        "Written by `make bench-features`; do not edit. "
        f"{datetime.now().astimezone():%Y-%m-%d}, {machine.processor}; {'; '.join(machine.software)}.",
        "",
        "The bare loop decodes, embeds and publishes the same pairs with the same code in one process, with a thread a",
        "core; the stage has one reader and an actor a core, and on one core an actor that reads by itself",
        "(`num_readers: 0`). Both have the same cores and no other, and only the start of Ray does not count. Light",
        f"is EfficientNet-Lite0 at {IMAGE_PX['light']} px, heavy at {IMAGE_PX['heavy']} px, each beside WordLlama;",
        f"shards of {ROWS_PER_SHARD} pairs.",
        "",
        "| backbone | source | cores | pairs | bare loop, pairs/s | stage, pairs/s | stage / loop |",
        "|---|---|---|---|---|---|---|",
        *(
            f"| {row['backbone']} | {row['place']} | {row['cores']} | {row['pairs']:,} | {row['loop']:.1f} | "
            f"{row['stage']:.1f} | {row['stage'] / row['loop']:.3f} |"
            for row in throughput
        ),
        "",
        *(describe_least(throughput, num_cores) for num_cores in sorted({row["cores"] for row in throughput})),
        "",
        f"Peak memory of a worker without what it shares; light backbone, shards of {ROWS_PER_SHARD} pairs:",
        "",
        "| pairs | actor, MiB | reader, MiB |",
        "|---|---|---|",
        *(f"| {row['pairs']:,} | {row['_EmbedAndCommit']:.0f} | {row['decode_batch']:.0f} |" for row in memory),
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure everything and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", nargs=3, metavar=("SIDE", "VALUES", "CORES"), help="one side, in this process")
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 200_000], help="corpora for the memory")
    parser.add_argument("--backbones", nargs="+", choices=tuple(IMAGE_PX), default=list(IMAGE_PX))
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "throughput.md")
    asked = parser.parse_args()
    if asked.measure:
        side, values, num_cores = asked.measure
        measure_here(side, json.loads(values), int(num_cores))
        return
    with tempfile.TemporaryDirectory() as folder:
        throughput = tell(row for name in asked.backbones for row in compare_throughput(Path(folder), name))
        memory = tell(compare_memory(Path(folder), asked.sizes))
    asked.output.write_text(write_document(throughput, memory), encoding="utf-8")
    print(f"wrote {asked.output}")


if __name__ == "__main__":
    main()
