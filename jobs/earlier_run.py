"""The run that a job grows from: found, checked against the configuration, or recalled from what was taken over."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jobs.config import CONFIG, JobConfig, parse_stored_config
from mmcsal_core.artifacts import SUCCESS, Artifact
from mmcsal_core.errors import ConfigError, DataError
from mmcsal_core.schema import GROWN_FROM
from mmcsal_core.storage import Store
from mmcsal_core.version import __version__
from pipelines.growth import EarlierRun, check_content_keys
from pipelines.stage_names import FEATURES, INGEST, TRAIN


@dataclass(frozen=True)
class Growth:
    """What a run grows from.

    Args:
        earlier: the artifacts that are taken over.
        features: their fingerprint.
        encoder: fingerprint of its encoder.
    """

    earlier: EarlierRun
    features: str
    encoder: str


def find_growth(config: JobConfig) -> Growth | None:
    """Find the run that a configuration grows from; where it is gone by now, recall what was taken over from it.

    Raises:
        DataError: there is no such run, or it has not come as far as an encoder.
        ConfigError: its vectors or its encoder were made with other settings, or it cannot tell which pairs it knows.
    """
    earlier = _name_earlier(config)
    if earlier is None:
        return None
    unfinished = [each for each in (earlier.pairs, earlier.features, earlier.encoder) if not each.store.exists(SUCCESS)]
    if unfinished:
        recalled = recall_growth(config)
        if recalled is not None and not earlier.store.exists(CONFIG):
            return recalled
        raise DataError(
            f"grow.from_run needs a run that has come as far as an encoder, but {unfinished[0].store.url} is missing "
            "or unfinished; finish that run first, or name another one"
        )
    check_content_keys(earlier)
    _check_settings(config, earlier)
    return Growth(earlier, earlier.features.read_manifest().fingerprint, earlier.encoder.read_manifest().fingerprint)


def recall_growth(config: JobConfig) -> Growth | None:
    """Return what the stored artifacts of this run say they were grown from, whatever has become of it."""
    earlier = _name_earlier(config)
    own = Artifact(config.run_store, "features", FEATURES)
    if earlier is None or not own.store.exists(SUCCESS):
        return None
    said = own.read_manifest().properties.get(GROWN_FROM, {})
    if said.get("run_id") != earlier.run_id:
        return None
    return Growth(earlier, said["fingerprint"], said["encoder_fingerprint"])


def _name_earlier(config: JobConfig) -> EarlierRun | None:
    run_id, store = config.grow.from_run, config.earlier_store
    if run_id is None or store is None:
        return None
    return EarlierRun(
        run_id=run_id,
        store=store,
        pairs=Artifact(store, "pairs", INGEST),
        features=Artifact(store, "features", FEATURES),
        encoder=Artifact(store, "encoder", TRAIN),
    )


def _check_settings(config: JobConfig, earlier: EarlierRun) -> None:
    """Refuse to mix vectors that were made in different ways."""
    version = earlier.features.read_manifest().code_version
    if version != __version__:
        raise ConfigError(
            f"a run grows from one of its own version, but {earlier.store.url} was made by {version} and this is "
            f"{__version__}, whose vectors may differ; use {version}, or leave grow.from_run out"
        )
    stored = _read_settings(earlier.store)
    keys = ["modalities", "features", *(["encoder"] if config.grow.keeps_encoder else [])]
    ours = config.model_dump(mode="json", include=set(keys))
    differing = [name for key in keys for name in _list_differences(key, ours[key], stored[key])]
    if not differing and list(config.modalities) != earlier.encoder.read_manifest().properties["modalities"]:
        differing = ["the order of modalities"]
    if differing:
        is_encoder = all(name.startswith("encoder.") for name in differing)
        advice = "; grow.retrain: true fits a new encoder" if is_encoder else ""
        raise ConfigError(
            f"a run grows from one of the same modalities, features and encoder, but in {earlier.store.url} "
            f"{', '.join(differing)} differ; set them as they are in its {CONFIG}, or leave grow.from_run out{advice}"
        )


def _read_settings(store: Store) -> Mapping[str, Any]:
    stored = parse_stored_config({**store.read_json(CONFIG), "output": "."})
    return stored.model_dump(mode="json")


def _list_differences(key: str, ours: Any, stored: Any) -> list[str]:
    """Name the keys at which two trees of settings differ, e.g. `modalities.image.image_size`."""
    if isinstance(ours, Mapping) and isinstance(stored, Mapping):
        names = dict.fromkeys([*ours, *stored])
        return [each for name in names for each in _list_differences(f"{key}.{name}", ours.get(name), stored.get(name))]
    return [] if ours == stored else [key]
