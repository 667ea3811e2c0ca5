"""A selection from stored artifacts measures on the configured space, and reads what that takes."""

from pathlib import Path

import numpy as np
import pytest

from mmcsal_core.selection import SelectionConfig, measure_suspicion, select_coreset
from mmcsal_core.selection.config import Strategy
from mmcsal_core.selection.coreset import Request
from mmcsal_core.selection.engine.eligibility import NO_ROWS
from mmcsal_core.selection.stored_pool import PoolArtifacts, read_pool
from mmcsal_core.selection.strategies import select_from_pool
from mmcsal_core.storage import Store
from tests.pipelines.pair_artifacts import MODALITIES, PairArtifacts, publish_neighbors, write_pair_artifacts

NUM_PAIRS = 150


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> PairArtifacts:
    folder: Path = tmp_path_factory.mktemp("run")
    return write_pair_artifacts(Store(str(folder)), NUM_PAIRS)


@pytest.fixture(scope="module")
def inputs(made: PairArtifacts) -> PoolArtifacts:
    return publish_neighbors(made, 64, rows_per_shard=NUM_PAIRS)


@pytest.mark.parametrize("space", ["joint", "features", "text"])
@pytest.mark.parametrize("strategy", ["mmcsal", "k_center"])
def test_a_stored_pool_is_selected_from_like_one_in_memory(
    made: PairArtifacts, inputs: PoolArtifacts, strategy: Strategy, space: str
) -> None:
    config = SelectionConfig(strategy=strategy, space=space)
    stored = read_pool(inputs, MODALITIES, config).pool
    found = select_from_pool(stored, Request(12, NO_ROWS, 5, config)).indices
    z, x = made.pool.embeddings, made.pool.features
    suspicion = measure_suspicion(z, features=x, out_of_fold_alignment=made.unseen)
    expected = select_coreset(z, 12, features=x, suspicion=suspicion, seed=5, config=config).indices
    np.testing.assert_array_equal(found, expected)
    if strategy == "k_center":
        assert bool(stored.spaces) == (space == "features")
