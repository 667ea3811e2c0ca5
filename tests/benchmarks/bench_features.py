"""The features stage through Ray Data against the bare loop over the same pairs: same code, same cores, one run.

`make bench` runs it. The ratio counts loading the backbones on both sides, and starting Ray itself on neither.
"""

import json
import tempfile
import time
from pathlib import Path

from jobs.cluster import connect_ray
from jobs.config import JobConfig, parse_config
from jobs.progress import JsonReporter
from jobs.run import run_job
from jobs.steps import lay_out
from mmcsal_core.artifacts import plan_ranges
from mmcsal_core.corpus.decode_chunk import ChunkDecoder
from pipelines.features import decode_shard, load_embedder
from tests.corpora import write_image_text_parquet
from tests.integration.job_process import make_config

NUM_PAIRS = 4096
IMAGE_PX = 128


def time_bare_loop(config: JobConfig) -> float:
    """Decode and embed all pairs in this process; return pairs a second."""
    started = time.perf_counter()
    decoder = ChunkDecoder(config.modalities, config.source_options, {})
    embedder = load_embedder(decoder, config.features, config.resources)
    for shard in plan_ranges(NUM_PAIRS, config.resources.rows_per_shard):
        embedder.embed_shard(decode_shard(lay_out(config).pairs, shard, decoder))
    return NUM_PAIRS / (time.perf_counter() - started)


def time_stage(config: JobConfig) -> float:
    """Run the features stage; return pairs a second."""
    started = time.perf_counter()
    run_job(config, JsonReporter(), until="features")
    return NUM_PAIRS / (time.perf_counter() - started)


def main() -> None:
    """Print both rates and their ratio as JSON."""
    with tempfile.TemporaryDirectory() as folder:
        corpus = write_image_text_parquet(Path(folder) / "pairs.parquet", NUM_PAIRS)
        values = make_config(corpus, Path(folder) / "out", resources={"rows_per_shard": 512})
        config = parse_config(values, [f"modalities.image.image_size={IMAGE_PX}"])
        with connect_ray(config.ray, config.resources):
            run_job(config, JsonReporter(), until="ingest")
            bare, stage = time_bare_loop(config), time_stage(config)
    rates = {"bare_pairs_per_s": round(bare, 1), "stage_pairs_per_s": round(stage, 1), "ratio": round(stage / bare, 3)}
    print(json.dumps({"num_pairs": NUM_PAIRS, "image_px": IMAGE_PX, **rates}))


if __name__ == "__main__":
    main()
