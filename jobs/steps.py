"""The stages of a run as a plain list: what each publishes, under which fingerprint, and how to execute it.

All fingerprints are known before anything runs, since each is a function of the configuration and of the fingerprints
before it. So a run that has nothing to do ends without starting Ray, and without importing a stage.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

import pipelines
from jobs.config import JobConfig, hash_config
from jobs.earlier_run import Growth, recall_growth
from mmcsal_core.artifacts import SUCCESS, Artifact, Manifest, compute_fingerprint
from mmcsal_core.errors import DataError
from mmcsal_core.evaluation.config import make_contestants
from pipelines.growth import EarlierRun
from pipelines.ingest_config import INDEX
from pipelines.stage_names import CORESET, EMBED, EVALUATE, FEATURES, INGEST, NEIGHBORS, REPORT, TRAIN
from pipelines.stage_run import StageRun

if TYPE_CHECKING:
    import pipelines.coreset
    import pipelines.embed
    import pipelines.evaluate
    import pipelines.features
    import pipelines.ingest
    import pipelines.neighbors
    import pipelines.report
    import pipelines.train
    from pipelines.coreset_demands import PairLists


@dataclass(frozen=True)
class Step:
    """One stage of one run."""

    name: str
    artifact: Artifact
    fingerprint: str
    execute: Callable[[StageRun], Manifest]

    def is_complete(self) -> bool:
        """Say whether the stage's artifact is finished under this fingerprint."""
        return self.artifact.is_complete(self.fingerprint)


@dataclass(frozen=True)
class Layout:
    """The artifacts of a run folder."""

    pairs: Artifact
    features: Artifact
    encoder: Artifact
    embeddings: Artifact
    indexes: Artifact
    neighbors: Artifact
    selection: Artifact
    report: Artifact
    evaluation: Artifact


def lay_out(config: JobConfig) -> Layout:
    """Name the artifacts of the run that a configuration describes."""
    run = config.run_store
    return Layout(
        pairs=Artifact(run, "pairs", INGEST),
        features=Artifact(run, "features", FEATURES),
        encoder=Artifact(run, "encoder", TRAIN),
        embeddings=Artifact(run, "embeddings", EMBED),
        indexes=Artifact(run, "indexes", NEIGHBORS),
        neighbors=Artifact(run, "neighbors", NEIGHBORS),
        selection=Artifact(run, "selection", CORESET),
        report=Artifact(run, "report", REPORT),
        evaluation=Artifact(run, "evaluation", EVALUATE),
    )


def fingerprint_ingest(config: JobConfig, source_fingerprint: str) -> str:
    """Return the fingerprint of pairs/: what the source is and where each modality stands in it."""
    location = {"kind", "column", "uri_column", "suffixes"}
    modalities = [
        [name, modality.model_dump(mode="json", include=location)] for name, modality in config.modalities.items()
    ]
    settings = {"source": _dump(config.source), "ingest": _dump(config.ingest), "modalities": modalities}
    return compute_fingerprint(INGEST, settings, {"source": source_fingerprint})


def list_steps(
    config: JobConfig,
    pairs_fingerprint: str,
    list_hashes: Mapping[str, str],
    lists: "PairLists | None" = None,
    growth: Growth | None = None,
) -> list[Step]:
    """Return the stages in order, evaluate only where the configuration names a label column.

    Args:
        config: of the run.
        pairs_fingerprint: that of the first stage.
        list_hashes: content of the lists of pairs that the selection names, hashed, by key.
        lists: that very content, where the selection may have to be made.
        growth: what the run grows from, if it does.
    """
    at = lay_out(config)
    prints = _chain_fingerprints(config, pairs_fingerprint, list_hashes, growth)
    earlier = None if growth is None else growth.earlier

    def step(artifact: Artifact, execute: Callable[[StageRun], Manifest]) -> Step:
        return Step(artifact.stage, artifact, prints[artifact.stage], execute)

    steps = [
        step(
            at.pairs,
            lambda run: pipelines.ingest.ingest_pairs(
                source=config.source,
                source_options=config.source_options,
                modalities=config.modalities,
                config=config.ingest,
                run=run,
                earlier_index=None if earlier is None else earlier.store.child(INDEX),
            ),
        ),
        step(
            at.features,
            lambda run: pipelines.features.extract_features(
                pairs=at.pairs,
                modalities=config.modalities,
                source_options=config.source_options,
                config=config.features,
                run=run,
                earlier=earlier,
            ),
        ),
        step(at.encoder, lambda run: _fit(config, at, earlier, run)),
        step(
            at.embeddings,
            lambda run: pipelines.embed.embed_pairs(features=at.features, encoder=at.encoder, run=run),
        ),
        step(
            at.neighbors,
            lambda run: pipelines.neighbors.find_neighbors(
                embeddings=at.embeddings,
                features=at.features,
                encoder=at.encoder,
                indexes=at.indexes,
                config=config.neighbors,
                run=run,
            ),
        ),
        step(at.selection, lambda run: _rank(config, at, lists, run)),
        step(at.report, lambda run: _report(config, at, run)),
    ]
    if config.evaluate.label_column is not None:
        steps.append(step(at.evaluation, lambda run: _evaluate(config, at, run)))
    return steps


def list_stored_steps(
    config: JobConfig, list_hashes: Mapping[str, str], lists: "PairLists | None" = None
) -> list[Step]:
    """Return the stages as `list_steps` does, of a run whose pairs are stored: the source is not looked at.

    Raises:
        DataError: nothing is stored.
    """
    pairs = lay_out(config).pairs
    if not pairs.store.exists(SUCCESS):
        raise DataError(f"{config.run_store.url} has no finished pairs; use `mmcsal run` first")
    source_fingerprint = pairs.read_manifest().properties["source_fingerprint"]
    pairs_fingerprint = fingerprint_ingest(config, source_fingerprint)
    return list_steps(config, pairs_fingerprint, list_hashes, lists, recall_growth(config))


def recall_lists(config: JobConfig) -> dict[str, str]:
    """Return the hashes of the lists that the stored selection was made with; the lists themselves may be gone."""
    selection = lay_out(config).selection
    if not selection.store.exists(SUCCESS):
        return {}
    return dict(selection.read_manifest().properties.get("lists", {}))


def _chain_fingerprints(
    config: JobConfig, pairs: str, list_hashes: Mapping[str, str], growth: Growth | None
) -> dict[str, str]:
    modalities = [[name, _dump(modality)] for name, modality in config.modalities.items()]
    known = {} if growth is None else {"earlier": growth.features}
    extracted = compute_fingerprint(
        FEATURES, {"features": _dump(config.features), "modalities": modalities}, {"pairs": pairs} | known
    )
    fitting = {
        "encoder": _dump(config.encoder),
        "modalities": list(config.modalities),
        "seed": config.seed,
        "workers": config.resources.describe_training(),
    }
    fitted = compute_fingerprint(TRAIN, fitting, {"features": extracted})
    if growth is not None and config.grow.keeps_encoder:
        fitted = compute_fingerprint(TRAIN, {}, {"features": extracted, "earlier": growth.encoder})
    embedded = compute_fingerprint(EMBED, {}, {"features": extracted, "encoder": fitted})
    found = compute_fingerprint(NEIGHBORS, _dump(config.neighbors), {"embeddings": embedded})
    ranking = {"selection": _dump(config.selection), "seed": config.seed, "run_id": config.run_id, "lists": list_hashes}
    ranked = compute_fingerprint(CORESET, ranking, {"pairs": pairs, "neighbors": found})
    telling = {"report": _dump(config.report), "seed": config.seed}
    told = compute_fingerprint(REPORT, telling, {"selection": ranked})
    contestants = [[each.name, _dump(each.config)] for each in make_contestants(config.evaluate, config.selection)]
    judging = {"evaluate": _dump(config.evaluate), "contestants": contestants, "seed": config.seed}
    judged = compute_fingerprint(EVALUATE, judging, {"pairs": pairs, "neighbors": found})
    return {
        INGEST: pairs,
        FEATURES: extracted,
        TRAIN: fitted,
        EMBED: embedded,
        NEIGHBORS: found,
        CORESET: ranked,
        REPORT: told,
        EVALUATE: judged,
    }


def _fit(config: JobConfig, at: Layout, earlier: EarlierRun | None, run: StageRun) -> Manifest:
    if earlier is not None and config.grow.keeps_encoder:
        return pipelines.train.keep_encoder(earlier=earlier, pairs=at.pairs, features=at.features, run=run)
    return pipelines.train.train_encoder(
        features=at.features,
        modalities=list(config.modalities),
        seed=config.seed,
        config=config.encoder,
        run=run,
        finetuned={name: each for name, each in config.modalities.items() if each.finetune_last_block},
    )


def _rank(config: JobConfig, at: Layout, lists: "PairLists | None", run: StageRun) -> Manifest:
    from mmcsal_core.selection.selection_table import RunOrigin  # noqa: PLC0415  slow to load
    from mmcsal_core.selection.stored_pool import PoolArtifacts  # noqa: PLC0415  slow to load

    origin = RunOrigin(
        run_id=config.run_id,
        seed=config.seed,
        encoder_sha256=at.encoder.read_manifest().properties["encoder_sha256"],
        config_sha256=hash_config(config),
    )
    return pipelines.coreset.rank_pairs(
        inputs=PoolArtifacts(at.pairs, at.features, at.embeddings, at.indexes, at.neighbors),
        source_options=config.source_options,
        modalities=config.modalities,
        origin=origin,
        config=config.selection,
        run=run,
        lists=lists,
    )


def _report(config: JobConfig, at: Layout, run: StageRun) -> Manifest:
    from mmcsal_core.reporting.numbers import ReportInputs  # noqa: PLC0415  slow to load

    return pipelines.report.write_report(
        inputs=ReportInputs(at.pairs, at.features, at.encoder, at.embeddings, at.neighbors, at.selection),
        modalities=config.modalities,
        source_options=config.source_options,
        seed=config.seed,
        config=config.report,
        run=run,
    )


def _evaluate(config: JobConfig, at: Layout, run: StageRun) -> Manifest:
    from mmcsal_core.selection.stored_pool import PoolArtifacts  # noqa: PLC0415  slow to load

    return pipelines.evaluate.evaluate_selections(
        inputs=PoolArtifacts(at.pairs, at.features, at.embeddings, at.indexes, at.neighbors),
        modalities=list(config.modalities),
        selection=config.selection,
        seed=config.seed,
        config=config.evaluate,
        run=run,
    )


def _dump(settings: BaseModel | Mapping[str, Any]) -> dict[str, Any]:
    return settings.model_dump(mode="json") if isinstance(settings, BaseModel) else dict(settings)
