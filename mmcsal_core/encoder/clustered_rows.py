"""Prototypes of rows that are too many to hold: found on a sample, then every row is assigned, block by block.

In: a function that embeds rows by number. Out: prototypes at several granularities. Memory is that of the sample and of
one block, besides one number a row and granularity. Several workers embed and assign their slices; the first one
clusters the sample, the others receive.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch

from mmcsal_core.encoder.config import PrototypeSource
from mmcsal_core.encoder.feature_rows import Rows, Vectors, iter_blocks
from mmcsal_core.encoder.prototypes import (
    MAX_POINTS_PER_PROTOTYPE,
    Clusters,
    ClusterSpread,
    Prototypes,
    assign_nearest,
    find_centroids,
)
from mmcsal_core.encoder.sinkhorn import find_balanced_clusters
from mmcsal_core.encoder.workers import Workers

Number = TypeVar("Number", np.float32, np.int32)


@dataclass(frozen=True)
class ClusteredRows:
    """One modality's rows.

    Args:
        embed: maps row numbers (n,) to unit vectors (n, d).
        num_rows: rows are numbered 0 .. num_rows - 1.
        dim: d.
        workers: who shares the work.
        device: on which the workers exchange tensors.
    """

    embed: Callable[[Rows], Vectors]
    num_rows: int
    dim: int
    workers: Workers
    device: torch.device

    def make_prototypes(
        self, granularities: Sequence[int], source: PrototypeSource, temperature: float, seed: int
    ) -> list[Prototypes]:
        """Cluster the rows once a granularity; each of these is a number of clusters, at most `num_rows`."""
        sample = self.embed_sample(MAX_POINTS_PER_PROTOTYPE * max(granularities), seed)
        found = [self._share(sample, k, source, seed) for k in granularities]
        assigned, spreads = self._assign(found)
        return [
            Prototypes(level.centroids, spread.measure_concentrations(temperature), np.ascontiguousarray(numbers))
            for level, spread, numbers in zip(found, spreads, assigned.T, strict=True)
        ]

    def find_centroids(self, num_clusters: int, source: PrototypeSource, seed: int) -> Vectors:
        """Return the centroids (k, d) alone."""
        sample = self.embed_sample(MAX_POINTS_PER_PROTOTYPE * num_clusters, seed)
        return self._share(sample, num_clusters, source, seed).centroids

    def embed_sample(self, max_rows: int, seed: int) -> Vectors:
        """Embed all rows, or a uniform sample of `max_rows` of them in ascending order, on every worker."""
        rows = np.arange(self.num_rows)
        if max_rows < self.num_rows:
            rows = np.sort(np.random.default_rng(seed).choice(self.num_rows, max_rows, replace=False))
        return self._gather(self.embed(rows[self.workers.slice_of(len(rows))]), len(rows))

    def _share(self, sample: Vectors, num_clusters: int, source: PrototypeSource, seed: int) -> Clusters:
        """Return the first worker's clusters on every worker."""
        zeros = np.zeros(num_clusters, np.float32)
        found = Clusters(np.empty((num_clusters, self.dim), np.float32), zeros)
        if self.workers.rank == 0 and source == "sinkhorn":
            found = find_balanced_clusters(sample, num_clusters, seed)
        elif self.workers.rank == 0:
            found = Clusters(find_centroids(sample, num_clusters, seed), zeros)
        return Clusters(self._broadcast(found.centroids), self._broadcast(found.offsets))

    def _assign(self, found: Sequence[Clusters]) -> tuple[npt.NDArray[np.int32], list[ClusterSpread]]:
        """Return the cluster of every row at every granularity, (num_rows, levels), and the clusters' spreads."""
        mine = np.arange(self.num_rows)[self.workers.slice_of(self.num_rows)]
        numbers = np.empty((len(mine), len(found)), np.int32)
        spreads = [ClusterSpread(len(level.centroids)) for level in found]
        for block in iter_blocks(mine):
            vectors = self.embed(block)
            for column, (level, spread) in enumerate(zip(found, spreads, strict=True)):
                nearest = assign_nearest(vectors, level.centroids, level.offsets)
                spread.add(vectors, level.centroids, nearest)
                numbers[block - mine[0], column] = nearest
        for spread in spreads:
            spread.sums = self.workers.sum_value(torch.from_numpy(spread.sums).to(self.device)).cpu().numpy()
        return self._gather(numbers, self.num_rows), spreads

    def _gather(self, own: npt.NDArray[Number], num_rows: int) -> npt.NDArray[Number]:
        gathered = self.workers.gather_rows(torch.from_numpy(own).to(self.device), num_rows)
        return gathered.cpu().numpy().astype(own.dtype, copy=False)

    def _broadcast(self, array: Vectors) -> Vectors:
        return np.asarray(self.workers.broadcast(torch.from_numpy(array).to(self.device)).cpu().numpy())
