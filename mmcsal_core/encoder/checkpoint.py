"""Files of an encoder and of an unfinished fit: safetensors for arrays, JSON for the rest, never pickle."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from mmcsal_core.backbones.rebuilding import build_last_block
from mmcsal_core.encoder.config import EncoderConfig
from mmcsal_core.encoder.encoder_fit import EncoderFit
from mmcsal_core.encoder.model import Encoder
from mmcsal_core.encoder.prototypes import Prototypes
from mmcsal_core.encoder.towers import build_towers, pack_towers, unpack_towers
from mmcsal_core.errors import ArtifactError
from mmcsal_core.version import __version__

WEIGHTS_FILE = "encoder.safetensors"
CARD_FILE = "encoder.json"
FORMAT = "1"

_PROTOTYPES = "prototypes"
_BEST = "best"


def save_encoder(encoder: Encoder) -> dict[str, bytes]:
    """Return the files of an encoder by name; equal encoders give equal bytes."""
    tensors = pack_towers(encoder.towers)
    for name, centroids in encoder.prototypes.items():
        tensors[f"{name}.{_PROTOTYPES}"] = torch.from_numpy(np.ascontiguousarray(centroids))
    card = {
        "format": FORMAT,
        "code_version": __version__,
        "modalities": list(encoder.modalities),
        "feature_dims": encoder.feature_dims,
        "num_prototypes": {name: len(centroids) for name, centroids in encoder.prototypes.items()},
        "seed": encoder.seed,
        "config": encoder.config.model_dump(mode="json"),
    }
    if encoder.blocks:
        card["blocks"] = {name: block.structure for name, block in encoder.blocks.items()}
    return {WEIGHTS_FILE: save(tensors), CARD_FILE: (json.dumps(card, indent=2, sort_keys=True) + "\n").encode()}


def load_encoder(files: Mapping[str, bytes]) -> Encoder:
    """Rebuild an encoder, on the CPU, from what `save_encoder` returned; last blocks from their structure in the card.

    Raises:
        ConfigError: the package that a last block is built with is missing.
        ArtifactError: a file is missing, damaged or of another format.
    """
    card = _read_card(files)
    tensors = _read_tensors(files.get(WEIGHTS_FILE, b""), WEIGHTS_FILE)
    config = EncoderConfig.model_validate_json(json.dumps(card["config"]))
    try:
        blocks = {name: build_last_block(structure) for name, structure in card.get("blocks", {}).items()}
        towers = build_towers({name: card["feature_dims"][name] for name in card["modalities"]}, config, blocks)
        unpack_towers(towers, tensors)
        prototypes = {name: tensors[f"{name}.{_PROTOTYPES}"].numpy() for name in towers}
    except (KeyError, RuntimeError) as error:
        raise ArtifactError(
            f"{WEIGHTS_FILE} must hold what {CARD_FILE} says, but does not ({error}); run the stage 'train' again"
        ) from error
    return Encoder(towers, prototypes, config, card["seed"])


def save_fit(fit: EncoderFit) -> bytes:
    """Return everything that a fit needs to go on: weights, the best ones so far, optimiser, prototypes, losses."""
    tensors = pack_towers(fit.towers) | {f"{_BEST}.{name}": tensor for name, tensor in fit.best.items()}
    tensors["log_temperature"] = fit.log_temperature.detach().cpu()
    tensors["losses"] = torch.tensor(fit.losses, dtype=torch.float64).reshape(fit.epoch, len(fit.weights))
    tensors["retrieval"] = torch.tensor(fit.retrieval, dtype=torch.float64)
    for index, state in fit.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{key}": value.cpu() for key, value in state.items()}
    for name, levels in fit.prototypes.items():
        for level, prototypes in enumerate(levels):
            tensors |= _pack_prototypes(f"{_PROTOTYPES}.{name}.{level}", prototypes)
    return save(tensors)


def load_fit(fit: EncoderFit, data: bytes) -> None:
    """Set a fresh fit of the same features, configuration and seed to the state that `save_fit` returned.

    Raises:
        ArtifactError: the state is damaged.
    """
    tensors = _read_tensors(data, "checkpoint")
    unpack_towers(fit.towers, tensors)
    fit.log_temperature.data.copy_(tensors["log_temperature"])
    fit.losses = tensors["losses"].tolist()
    fit.retrieval = tensors["retrieval"].tolist()
    fit.best = {key.removeprefix(f"{_BEST}."): tensors[key] for key in tensors if key.startswith(f"{_BEST}.")}
    states: dict[int, dict[str, Tensor]] = {}
    for key in tensors:
        if key.startswith("optimizer."):
            _, index, name = key.split(".")
            states.setdefault(int(index), {})[name] = tensors[key]
    fit.optimizer.load_state_dict({"state": states, "param_groups": fit.optimizer.state_dict()["param_groups"]})
    if any(key.startswith(f"{_PROTOTYPES}.") for key in tensors):
        fit.prototypes = {name: _unpack_levels(fit, name, tensors) for name in fit.towers}


def _pack_prototypes(prefix: str, prototypes: Prototypes) -> dict[str, Tensor]:
    return {
        f"{prefix}.centroids": torch.from_numpy(prototypes.centroids),
        f"{prefix}.concentrations": torch.from_numpy(prototypes.concentrations),
        f"{prefix}.assigned": torch.from_numpy(prototypes.assigned),
    }


def _unpack_levels(fit: EncoderFit, name: str, tensors: Mapping[str, Tensor]) -> list[Prototypes]:
    prefixes = [f"{_PROTOTYPES}.{name}.{level}" for level in range(len(fit.granularities))]
    return [
        Prototypes(*(tensors[f"{prefix}.{part}"].numpy() for part in ("centroids", "concentrations", "assigned")))
        for prefix in prefixes
    ]


def _read_card(files: Mapping[str, bytes]) -> dict[str, Any]:
    try:
        card: dict[str, Any] = json.loads(files.get(CARD_FILE, b""))
    except ValueError as error:
        raise ArtifactError(f"{CARD_FILE} is missing or not JSON ({error}); run the stage 'train' again") from error
    if card.get("format") != FORMAT:
        raise ArtifactError(
            f"{CARD_FILE} must be of format {FORMAT}, got {card.get('format')!r}; run the stage 'train' again"
        )
    return card


def _read_tensors(data: bytes, name: str) -> dict[str, Tensor]:
    try:
        return load(data)
    except SafetensorError as error:
        raise ArtifactError(f"{name} is damaged ({error}); delete it and run the stage 'train' again") from error
