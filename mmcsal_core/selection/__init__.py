"""Objectives, the greedy engine and the baselines.

The names below are imported when they are first used: an actor that holds a shard imports the engine, and none of the
libraries that only strategies need, which take longer to import than a shard takes to open.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmcsal_core.selection.config import SelectionConfig
    from mmcsal_core.selection.coreset import Coreset
    from mmcsal_core.selection.strategies import select_coreset
    from mmcsal_core.selection.suspected_pairs import measure_suspicion

__all__ = ["Coreset", "SelectionConfig", "measure_suspicion", "select_coreset"]

_HOMES = {
    "Coreset": "coreset",
    "SelectionConfig": "config",
    "measure_suspicion": "suspected_pairs",
    "select_coreset": "strategies",
}


def __getattr__(name: str) -> Any:
    """Import one of the names above."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
