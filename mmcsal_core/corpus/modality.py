"""What a modality of a corpus is: its kind, where its content stands in the source, how it is decoded and embedded."""

import re
from typing import Literal

from pydantic import Field, field_validator, model_validator

from mmcsal_core.errors import ConfigError
from mmcsal_core.settings import Settings

Kind = Literal["image", "text", "audio", "video", "vector"]

KINDS: tuple[Kind, ...] = ("image", "text", "audio", "video", "vector")

DEFAULT_BACKBONES: dict[Kind, str] = {
    "image": "efficientnet-lite0",
    "text": "wordllama",
    "audio": "logmel",
    "video": "efficientnet-lite0",
    "vector": "precomputed",
}

DEFAULT_SUFFIXES: dict[Kind, tuple[str, ...]] = {
    "image": (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff"),
    "text": (".txt",),
    "audio": (".wav", ".flac", ".ogg", ".mp3", ".opus"),
    "video": (".mp4", ".webm", ".mkv", ".mov"),
    "vector": (),
}

_NAME = re.compile(r"[a-z][a-z0-9_]*")


class ModalityConfig(Settings):
    """One modality of the corpus.

    In a tabular source (Parquet or a manifest) exactly one of `column` and `uri_column` says where the content stands;
    in a folder or in tar archives `suffixes` does. The remaining fields say how content is decoded for the backbone.
    """

    kind: Kind | None = Field(
        None, description="image, text, audio, video or vector; by default the modality's own name"
    )
    column: str | None = Field(None, description="column with the content itself: bytes, text or a vector")
    uri_column: str | None = Field(None, description="column with a path or URL of the content")
    suffixes: tuple[str, ...] = Field(
        (), description="file name endings in a folder or webdataset source, lower case, with the dot"
    )
    backbone: str | None = Field(None, description="e.g. efficientnet-lite0, wordllama, hf:NAME-or-folder@REVISION")
    finetune_last_block: bool = Field(
        False,
        description="train the backbone's last block together with the projection head; features/ then also keeps what "
        "goes into it, several times as large as the vector",
    )
    image_size: int = Field(224, ge=16, le=4096, description="side in pixels that images and frames are resized to")
    sample_rate: int = Field(16_000, ge=1_000, le=192_000, description="audio samples per second after resampling")
    window_s: float = Field(4.0, gt=0, le=600, description="seconds of audio used, cut or zero-padded to this length")
    window: Literal["start", "middle", "sampled"] = Field(
        "start",
        description="which seconds of longer audio: the first, those in the middle, or at a place that hangs on the "
        "content alone",
    )
    num_frames: int = Field(4, ge=1, le=512, description="video frames used, evenly spaced")
    frame_choice: Literal["even", "key"] = Field(
        "even", description="video frames: evenly spaced among all, or among key frames, which is faster"
    )
    max_chars: int = Field(10_000, ge=1, description="characters of text used; the rest is cut")
    max_pixels: int = Field(100_000_000, ge=1, description="largest image, in pixels, that is decoded at all")

    @field_validator("suffixes")
    @classmethod
    def _check_suffixes(cls, suffixes: tuple[str, ...]) -> tuple[str, ...]:
        wrong = [suffix for suffix in suffixes if not suffix.startswith(".") or suffix != suffix.lower()]
        if wrong:
            raise ValueError(f"a suffix is lower case and starts with a dot, got {wrong}; write e.g. '.png'")
        return suffixes

    @model_validator(mode="after")
    def _check_columns(self) -> "ModalityConfig":
        if self.column is not None and self.uri_column is not None:
            raise ValueError(
                f"give one of column and uri_column, got both ({self.column!r}, {self.uri_column!r}); "
                "column holds the content itself, uri_column a path or URL"
            )
        return self

    @property
    def resolved_kind(self) -> Kind:
        """The kind, once `resolve_modality` has filled it in."""
        if self.kind is None:
            raise ConfigError("a modality needs a kind; call resolve_modality first")
        return self.kind

    @property
    def resolved_backbone(self) -> str:
        """The backbone's name, the default of the kind where none is configured."""
        return self.backbone or DEFAULT_BACKBONES[self.resolved_kind]


def resolve_modality(name: str, config: ModalityConfig) -> ModalityConfig:
    """Fill in the kind, the backbone and the suffixes that `name` implies.

    Raises:
        ConfigError: the name is not usable in a column name, or implies no kind and none is given.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(f"a modality's name is lower case letters, digits and _, got {name!r}; rename it")
    kind = config.kind or next((kind for kind in KINDS if kind == name), None)
    if kind is None:
        raise ConfigError(f"modality {name!r} needs a kind, one of {', '.join(KINDS)}; add modalities.{name}.kind")
    return config.model_copy(
        update={
            "kind": kind,
            "backbone": config.backbone or DEFAULT_BACKBONES[kind],
            "suffixes": config.suffixes or DEFAULT_SUFFIXES[kind],
        }
    )
