"""The configuration of a job: one YAML file, read into strict models, checked whole before anything starts.

Unknown keys are refused with the nearest known one. Relative paths are relative to the working directory and become
absolute here, since workers do not share it. `resources`, `ray`, `pricing`, `max_reject_fraction` and the storage
options enter no fingerprint, except that the encoder's holds workers, threads and device of the training, which change
its last bits.
"""

import json
import re
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from jobs.config_errors import explain_invalid, explain_yaml, name_override
from mmcsal_core.backbones import check_backbone, check_finetuning, make_path_absolute
from mmcsal_core.corpus.modality import ModalityConfig, resolve_modality
from mmcsal_core.corpus.sources import SourceConfig
from mmcsal_core.corpus.sources.config import check_source
from mmcsal_core.credentials import check_url
from mmcsal_core.encoder.config import EncoderConfig
from mmcsal_core.errors import ConfigError
from mmcsal_core.evaluation.config import EvaluateConfig
from mmcsal_core.neighbors import NeighborConfig
from mmcsal_core.reporting.projection import check_projection
from mmcsal_core.selection.constraints.quotas import group_rows
from mmcsal_core.selection.space import FEATURES, JOINT
from mmcsal_core.settings import Settings
from mmcsal_core.storage import Store, hash_bytes
from pipelines.coreset_config import CoresetConfig
from pipelines.features_config import FeaturesConfig
from pipelines.growth import GrowConfig
from pipelines.ingest_config import INDEX, IngestConfig
from pipelines.report_config import ReportConfig
from pipelines.stage_run import Resources

CONFIG = "config.json"
"""File of a run with the configuration that its artifacts were made under."""

_NEUTRAL_KEYS = {
    *("source_options", "output_options", "output"),
    *("resources", "ray", "pricing", "max_reject_fraction", "report", "evaluate"),
}
_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class RayConfig(Settings):
    """Where the job runs: without an address on a Ray of its own on this machine, else on that cluster."""

    address: str | None = Field(None, description="address of a running cluster, e.g. auto or head:6379")
    num_cpus: int | None = Field(None, ge=1, description="CPU cores of a local Ray; by default all")
    num_gpus: int | None = Field(None, ge=0, description="GPUs of a local Ray; by default all")
    object_store_gb: float | None = Field(
        None, ge=0.075, description="memory of a local Ray's object store, GiB; by default Ray's choice"
    )
    spill_folder: str | None = Field(
        None, description="folder for what a local Ray's object store has no room for; by default below its session's"
    )
    namespace: str | None = Field(None, description="namespace of the job's actors on a shared cluster")
    runtime_env: dict[str, Any] = Field(
        default_factory=dict,
        repr=False,
        description="Ray's runtime environment for the workers; Ray writes it into its logs, so no secrets",
    )
    include_dashboard: bool = Field(False, description="start the dashboard of a local Ray, on loopback only")

    @field_validator("address")
    @classmethod
    def _check_address(cls, address: str | None) -> str | None:
        return None if address is None else check_url(address)


class PricingConfig(Settings):
    """What `mmcsal plan` multiplies: throughput you measured, and what an hour of the whole cluster costs."""

    pairs_per_second: float | None = Field(None, gt=0, description="pairs a second of one actor in the features stage")
    cost_per_hour: float | None = Field(None, ge=0, description="cost of an hour of the whole cluster, any currency")


class JobConfig(Settings):
    """One run, whole."""

    run_id: str = Field(description="names the run's folder, <output>/run_id=<run_id>")
    output: str = Field(description="folder of all runs; a path or any fsspec URL, without credentials")
    seed: int = Field(0, ge=0, description="of everything random")
    source: SourceConfig
    source_options: dict[str, Any] = Field(
        default_factory=dict, repr=False, description="fsspec storage options of the source"
    )
    output_options: dict[str, Any] = Field(
        default_factory=dict, repr=False, description="fsspec storage options of the output"
    )
    modalities: dict[str, ModalityConfig]
    ingest: IngestConfig = IngestConfig()
    features: FeaturesConfig = FeaturesConfig()
    encoder: EncoderConfig = EncoderConfig()
    neighbors: NeighborConfig = NeighborConfig()
    selection: CoresetConfig
    report: ReportConfig = ReportConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    grow: GrowConfig = GrowConfig()
    max_reject_fraction: float = Field(0.05, ge=0, le=1, description="largest share of pairs that a stage may reject")
    resources: Resources = Resources()
    ray: RayConfig = RayConfig()
    pricing: PricingConfig = PricingConfig()

    @field_validator("run_id")
    @classmethod
    def _check_run_id(cls, run_id: str) -> str:
        if not _RUN_ID.fullmatch(run_id):
            raise ValueError(f"a run_id is letters, digits, '.', '_' and '-', got {run_id!r}; it names a folder")
        return run_id

    @field_validator("output")
    @classmethod
    def _check_output(cls, output: str) -> str:
        return check_url(output)

    @model_validator(mode="after")
    def _check_modalities(self) -> "JobConfig":
        if len(self.modalities) < 2:
            raise ValueError(
                f"a pair has two or more modalities, got {sorted(self.modalities)}; add one under modalities, e.g. text"
            )
        return self

    @model_validator(mode="after")
    def _check_selection(self) -> "JobConfig":
        names, space = list(self.modalities), self.selection.space
        if space not in (JOINT, FEATURES, *names):
            raise ValueError(
                f"selection.space must be joint, features or a modality ({', '.join(names)}), got {space!r}; choose "
                "one of them"
            )
        unknown = sorted(set(self.selection.modality_weights) - set(names))
        if unknown:
            raise ValueError(
                f"selection.modality_weights are for {', '.join(names)}, got {', '.join(unknown)}; correct the name"
            )
        return self

    @model_validator(mode="after")
    def _check_growth(self) -> "JobConfig":
        earlier = self.grow.from_run
        if earlier is None:
            return self
        if not _RUN_ID.fullmatch(earlier) or earlier == self.run_id:
            raise ValueError(
                f"grow.from_run is the run_id of another run in the same output, got {earlier!r}; give this run a "
                "run_id of its own, and name the earlier one"
            )
        if self.selection.labelled is None:
            raise ValueError(
                "a run that grows needs selection.labelled, got none, and would pick the same pairs again; name what "
                f"is labelled by now, e.g. {self.output}/run_id={earlier}/selection/data/*.parquet, or [] for nothing"
            )
        return self

    @property
    def run_store(self) -> Store:
        """The folder of this run."""
        return Store(self.output, self.output_options).child(f"run_id={self.run_id}")

    @property
    def earlier_store(self) -> Store | None:
        """The folder of the run that this one grows from."""
        if self.grow.from_run is None:
            return None
        return Store(self.output, self.output_options).child(f"run_id={self.grow.from_run}")

    @property
    def source_index(self) -> Store:
        """Where the run keeps what it knows of tar archives."""
        return self.run_store.child(INDEX)


def load_config(path: str, overrides: Sequence[str] = ()) -> JobConfig:
    """Read a YAML file, apply `a.b=c` overrides, and check everything that can be checked without reading the source.

    Raises:
        ConfigError: naming the key, the rule, the value and what to do.
    """
    return parse_config(_read_yaml(Path(path)), overrides, origin=path)


def parse_config(values: Mapping[str, Any], overrides: Sequence[str] = (), *, origin: str = "config") -> JobConfig:
    """Check configuration values that were already read; see `load_config`."""
    merged = _convert_to_json(values)
    for override in overrides:
        _apply_override(merged, override)
    config = _resolve(_validate(merged, origin))
    for modality in config.modalities.values():
        check_backbone(modality.resolved_backbone, modality.resolved_kind)
        if modality.finetune_last_block:
            check_finetuning(modality.resolved_backbone, modality.resolved_kind)
    check_projection(config.report.projection)
    return config


def parse_stored_config(values: Mapping[str, Any]) -> JobConfig:
    """Read back what `describe_config` returned; whether this machine could run it is not asked."""
    return _resolve(_validate(values, "stored configuration"))


def describe_config(config: JobConfig) -> dict[str, Any]:
    """Return the configuration as JSON values, storage options left out, since they may hold secrets."""
    return config.model_dump(
        mode="json", exclude={"source_options": True, "output_options": True, "ray": {"runtime_env"}}
    )


def hash_config(config: JobConfig) -> str:
    """Hash what of the configuration determines the selection, as `config_sha256` in the selection's metadata.

    Of lists of pairs in files it knows the paths: what they hold enters the fingerprint of the coreset stage.
    """
    content = config.model_dump(mode="json", exclude=_NEUTRAL_KEYS)
    return hash_bytes(json.dumps(content, sort_keys=True).encode())


class _TextualDates(yaml.SafeLoader):
    """Reads dates and times as the text that they are written as, so that they spell groups as a column does."""


_TextualDates.yaml_implicit_resolvers = {
    first: [resolver for resolver in resolvers if resolver[0] != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _parse_yaml(text: str) -> Any:
    return yaml.load(text, Loader=_TextualDates)  # noqa: S506 - a SafeLoader


def _convert_to_json(value: Any) -> Any:
    return json.loads(json.dumps(_spell_keys(value), default=str))


def _spell_keys(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {_spell_key(key): _spell_keys(each) for key, each in value.items()}
    return [_spell_keys(each) for each in value] if isinstance(value, list | tuple) else value


def _spell_key(key: object) -> str:
    """Spell a key as the groups of a column of such values are, since that is what keys other than text are for."""
    if key is None or isinstance(key, bool | float | date):
        return group_rows("key", pa.chunked_array([pa.array([key])])).names[0]
    return str(key)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        values = _parse_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"the configuration cannot be read: {path} ({error.strerror}); check the path") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"the configuration must be YAML: {path}: {explain_yaml(error)}; correct it") from None
    if not isinstance(values, dict):
        raise ConfigError(f"the configuration must be a mapping of keys, {path} holds {type(values).__name__}")
    return values


def _apply_override(values: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not all(key.split(".")):
        named = name_override(override, JobConfig)
        raise ConfigError(f"--set takes a.b=value, got {named}; write e.g. --set selection.budget=200")
    *parents, last = key.split(".")
    node = values
    for parent in parents:
        child = node.setdefault(parent, {})
        if not isinstance(child, dict):
            raise ConfigError(f"--set {key}: {parent!r} holds a value, not keys; set {parent!r} itself")
        node = child
    try:
        node[last] = _convert_to_json(_parse_yaml(text))
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {key}: the value is not YAML: {explain_yaml(error)}; quote it") from None


def _validate(values: Mapping[str, Any], origin: str) -> JobConfig:
    try:
        return JobConfig.model_validate_json(json.dumps(values))
    except ValidationError as error:
        raise ConfigError(explain_invalid(error, origin, JobConfig)) from error


def _resolve(config: JobConfig) -> JobConfig:
    modalities = {name: _resolve_modality(name, modality) for name, modality in config.modalities.items()}
    check_source(config.source, modalities)
    source = config.source.model_copy(update={"url": _make_absolute(config.source.url)})
    lists = {
        name: _make_absolute(listed)
        for name in ("labelled", "exclude")
        if isinstance(listed := getattr(config.selection, name), str)
    }
    return config.model_copy(
        update={
            "modalities": modalities,
            "source": source,
            "output": _make_absolute(config.output),
            "selection": config.selection.model_copy(update=lists),
        }
    )


def _resolve_modality(name: str, config: ModalityConfig) -> ModalityConfig:
    modality = resolve_modality(name, config)
    return modality.model_copy(update={"backbone": make_path_absolute(modality.resolved_backbone)})


def _make_absolute(url: str) -> str:
    return url if "://" in url else str(Path(url).expanduser().absolute())
