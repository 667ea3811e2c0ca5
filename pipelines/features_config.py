"""What can be configured about the features stage; apart from it, since it imports torch."""

from pydantic import Field, field_validator

from mmcsal_core.artifacts import CHUNK_ROWS
from mmcsal_core.settings import Settings


class FeaturesConfig(Settings):
    """How features are computed."""

    batch_size: int = Field(32, ge=1, description="pairs that a backbone embeds at once; divides 256")
    trust_remote_code: bool = Field(False, description="let hf: models run Python code that comes with them")

    @field_validator("batch_size")
    @classmethod
    def _check_batch_size(cls, batch_size: int) -> int:
        if CHUNK_ROWS % batch_size:
            raise ValueError(f"batch_size must divide {CHUNK_ROWS}, got {batch_size}; use a power of two")
        return batch_size
