"""The stages of a run on Ray, one module each.

`pipelines.features` and so on are imported when they are first used: torch, Ray Data and what else stages need take
seconds to import, and a command that runs no stage should not wait for them.
"""

from importlib import import_module
from types import ModuleType

from pipelines.stage_names import EVALUATE, STAGES


def __getattr__(name: str) -> ModuleType:
    """Import a stage."""
    if name not in (*STAGES, EVALUATE):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return import_module(f"{__name__}.{name}")
