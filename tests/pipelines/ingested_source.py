"""The ingest stage in this process: its workers one after the other, without Ray."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from mmcsal_core.artifacts import Artifact, ShardRange, plan_ranges
from mmcsal_core.corpus.modality import ModalityConfig, resolve_modality
from mmcsal_core.corpus.pair_id import find_duplicate_rows, hash_pair_ids
from mmcsal_core.corpus.sources import SourceConfig, list_missing_tables, list_source, stage_tables
from mmcsal_core.corpus.sources.pairs import PairReader
from mmcsal_core.corpus.sources.tar_index import find_tar_columns
from mmcsal_core.storage import Store
from pipelines.ingest import STAGE, PairWorker, TarIndexer
from pipelines.ingest_config import INDEX

Configs: TypeAlias = Mapping[str, Mapping[str, Any]]
"""What is configured of each modality, by its name."""


@dataclass(frozen=True)
class Ingested:
    """What came of a source: the pairs artifact, finished, and the modalities as they were resolved."""

    pairs: Artifact
    modalities: dict[str, ModalityConfig]
    num_rows: int


def resolve_modalities(configs: Configs) -> dict[str, ModalityConfig]:
    """Return modalities by name, resolved."""
    return {name: resolve_modality(name, ModalityConfig(**config)) for name, config in configs.items()}


def ingest_source(
    source: SourceConfig,
    configs: Configs,
    folder: Path,
    *,
    options: Mapping[str, Any] | None = None,
    with_bytes: bool = False,
) -> Ingested:
    """Publish a source under `folder`, shard by shard; pairs in are pairs out plus rejected."""
    modalities, chosen, index = resolve_modalities(configs), options or {}, Store(str(folder)).child(INDEX)
    missing = list_missing_tables(source, modalities, chosen, index)
    indexer = TarIndexer(missing, find_tar_columns(source, modalities), chosen, index)
    for i in range(len(missing)):
        indexer.run_shard(ShardRange(index=i, start=0, stop=1))
    listing = list_source(source, modalities, chosen, index)
    assert not listing.is_estimated
    reader = PairReader(
        stage_tables(listing, Store(str(folder)).child("_listing")), modalities, chosen, with_bytes=with_bytes
    )
    out = Artifact(Store(str(folder)), "pairs", STAGE)
    plan = out.begin(listing.fingerprint, lambda: plan_ranges(listing.num_pairs, 256))
    worker = PairWorker(reader, find_duplicate_rows(hash_pair_ids(reader.read_ids(0, listing.num_pairs))), out, plan)
    for shard in plan.shards:
        worker.run_shard(shard)
    manifest = out.finish(plan)
    assert manifest.pairs_in == listing.num_pairs == manifest.pairs_out + manifest.pairs_rejected
    return Ingested(out, modalities, listing.num_pairs)
