"""FAISS indexes, neighbour search and the pair kernel."""

from mmcsal_core.neighbors.config import KernelConfig, NeighborConfig

__all__ = ["KernelConfig", "NeighborConfig"]
