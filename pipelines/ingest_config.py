"""What can be configured about the ingest stage; apart from it, since it imports Ray Data."""

from typing import Literal

from pydantic import Field

from mmcsal_core.settings import Settings

INDEX = "_source_index"
"""Folder of a run that holds the index of a source of tar archives."""


class IngestConfig(Settings):
    """What `pairs/` holds of the content: a reference to it, or the reference and the bytes themselves."""

    store: Literal["references", "bytes"] = Field(
        "references", description="what pairs/ holds of the content: where it lies, or the bytes themselves as well"
    )
