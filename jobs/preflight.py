"""What a configuration asks of its source, checked from headers and lists of pairs before anything is written."""

from collections.abc import Mapping
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

import numpy as np
from fsspec.implementations.local import LocalFileSystem

from jobs.config import JobConfig
from mmcsal_core.corpus.sources import SourceListing
from mmcsal_core.corpus.sources.locations import open_filesystem
from mmcsal_core.corpus.sources.pairs import pair_schema
from mmcsal_core.errors import ConfigError
from mmcsal_core.evaluation import make_contestants
from mmcsal_core.evaluation.rehearsal import rehearse_contest
from mmcsal_core.evaluation.stored_labels import check_label_columns
from mmcsal_core.selection.alignment_filter import select_alignment
from mmcsal_core.selection.coreset import Request
from mmcsal_core.selection.engine.eligibility import NO_ROWS
from mmcsal_core.selection.kmeans import select_kmeans
from mmcsal_core.selection.pool import make_pool
from mmcsal_core.selection.space import restrict_pool
from mmcsal_core.storage import Store
from pipelines.coreset_demands import PairLists, check_columns, check_condition, read_pair_lists


def read_lists(config: JobConfig) -> PairLists:
    """Read the lists of pairs that the selection names.

    Raises:
        DataError: a list is missing or unreadable.
        ConfigError: a list lies in the run's own folder.
    """
    lists = read_pair_lists(config.selection, config.source_options)
    for key in lists:
        listed = getattr(config.selection, key)
        if isinstance(listed, str):
            _refuse_own_files(key, listed, config.source_options, config.run_store)
    return lists


def count_picks(config: JobConfig, listing: SourceListing) -> int | None:
    """Return how many pairs are to be picked, at most; None where other limits than a budget end the selection.

    Raises:
        GateError: the source has fewer pairs than the budget, and is known well enough to say so.
    """
    if not config.selection.has_budget:
        return None
    if listing.is_estimated and config.selection.budget is not None:
        return config.selection.budget
    return config.selection.count_picks(listing.num_pairs)


def check_selection(config: JobConfig, listing: SourceListing, lists: PairLists) -> None:
    """Make sure that the selection's budget, columns, condition and strategy fit the source.

    Raises:
        GateError: the source has fewer pairs than the budget.
        ConfigError: a column or the condition does not fit the metadata, or the strategy not what it is to choose from.
    """
    count_picks(config, listing)
    names, pairs = list(config.modalities), pair_schema(listing, config.modalities)
    check_columns(config.selection, pairs, names)
    check_condition(config.selection, pairs, names)
    _rehearse(config, len(lists.get("labelled", ())))


def check_evaluation(config: JobConfig, listing: SourceListing) -> None:
    """Make sure, where there is to be an evaluation, that its columns and contestants fit the source.

    Raises:
        ConfigError: a column does not fit the metadata, or a contestant not what it is to choose from.
    """
    if config.evaluate.label_column is not None:
        names = list(config.modalities)
        check_label_columns(config.evaluate, pair_schema(listing, config.modalities), names)
        contestants = make_contestants(config.evaluate, config.selection)
        rehearse_contest(contestants, names, has_spaces=config.neighbors.backbone_dims > 0)


def _rehearse(config: JobConfig, num_labelled: int) -> None:
    """Show a made pool of one pair to what refuses pools by their modalities, weights and labels."""
    selection, one = config.selection, {name: np.ones((1, 1), np.float32) for name in config.modalities}
    spaces = one if config.neighbors.backbone_dims > 0 else {}
    pool = restrict_pool(make_pool(one, spaces=spaces, weights=selection.modality_weights), selection)
    if selection.strategy == "alignment":
        select_alignment(pool, Request(1, NO_ROWS, config.seed, selection))
    if selection.strategy == "kmeans" and num_labelled > 0:
        select_kmeans(pool, Request(1, np.arange(num_labelled), config.seed, selection))


def _refuse_own_files(key: str, url: str, options: Mapping[str, Any], run: Store) -> None:
    """Refuse a list that the selection would replace, and with it what it says of earlier picks."""
    filesystem, path = open_filesystem(url, options)
    own = run.filesystem
    if type(filesystem) is not type(own):
        return
    root = _resolve(own, run.root)
    for name in filesystem.glob(path) or [path]:
        if _resolve(filesystem, name).is_relative_to(root):
            raise ConfigError(
                f"selection.{key} must lie outside of {run.url}, whose files this run replaces, got {name}; copy it to "
                "another place and name the copy"
            )


def _resolve(filesystem: Any, path: str) -> PurePath:
    return Path(path).resolve() if isinstance(filesystem, LocalFileSystem) else PurePosixPath(path)
