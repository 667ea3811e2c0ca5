"""Objectives, the greedy engine and the baselines.

The names below are imported when they are first used: an actor that holds a shard imports the engine, and none of the
libraries that only strategies need, which take longer to import than a shard takes to open.
"""

from typing import TYPE_CHECKING

from mmcsal_core.lazy_names import import_lazily

if TYPE_CHECKING:
    from mmcsal_core.selection.config import SelectionConfig
    from mmcsal_core.selection.coreset import Coreset
    from mmcsal_core.selection.strategies import select_coreset
    from mmcsal_core.selection.suspected_pairs import measure_suspicion

__all__ = ["Coreset", "SelectionConfig", "measure_suspicion", "select_coreset"]

__getattr__ = import_lazily(
    __name__,
    {
        "Coreset": "coreset",
        "SelectionConfig": "config",
        "measure_suspicion": "suspected_pairs",
        "select_coreset": "strategies",
    },
)
