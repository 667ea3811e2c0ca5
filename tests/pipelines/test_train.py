"""The train stage: equal to the in-process fit, resumed or not, on one worker; close to it on two."""

import errno
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import faiss
import numpy as np
import numpy.typing as npt
import psutil
import pyarrow as pa
import pytest
import ray.train
import torch

from jobs.exit_codes import ExitCode, classify_error
from mmcsal_core.artifacts import Artifact, plan_ranges
from mmcsal_core.encoder.checkpoint import CARD_FILE, WEIGHTS_FILE, load_encoder, save_encoder
from mmcsal_core.encoder.config import EncoderConfig
from mmcsal_core.encoder.feature_rows import read_rows
from mmcsal_core.encoder.fitting import EncoderFit, fit_encoder
from mmcsal_core.encoder.out_of_fold import draw_fold_seed, leave_out, list_folds, measure_out_of_fold, score_pairs
from mmcsal_core.errors import ArtifactError, ConfigError, DataError
from mmcsal_core.schema import (
    OUT_OF_FOLD_ALIGNMENT,
    OUT_OF_FOLD_FILE,
    PAIR_ID,
    feature_column,
    feature_schema,
    out_of_fold_schema,
)
from mmcsal_core.storage import Store
from mmcsal_core.vector_columns import stack_vectors
from pipelines import train, train_group
from pipelines.feature_spool import FeatureSpool, spool_features
from pipelines.fit_checkpoints import (
    CHECKPOINTS,
    FitPace,
    FitProgress,
    publish_checkpoint,
    publish_scores,
    read_progress,
    read_scores,
)
from pipelines.stage_run import Resources, StageProgress, StageRun
from tests.ray_processes import list_children, name_process

CONFIG = EncoderConfig(dim=16, hidden_width=32, epochs=4, batch_size=64, warmup_fraction=0.25, out_of_fold_epochs=3)
DIMS = {"image": 24, "text": 20, "audio": 12}
NAMES = ("image", "text")

Vectors = npt.NDArray[np.float32]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Compute in this process with as many threads as a worker does."""
    before = torch.get_num_threads(), faiss.omp_get_max_threads()
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    yield
    torch.set_num_threads(before[0])
    faiss.omp_set_num_threads(before[1])


def publish_features(
    root: Path, num_pairs: int = 300, names: Sequence[str] = NAMES, *, shuffled: Sequence[str] = ()
) -> Artifact:
    """Publish features of a planted structure in shards of one chunk, the ids not in the order of the rows."""
    rng = np.random.default_rng(0)
    shared = 1.5 * rng.normal(size=(10, 5))[rng.integers(10, size=num_pairs)] + rng.normal(size=(num_pairs, 5))
    views = [np.tanh(shared @ rng.normal(size=(5, dim))).astype(np.float32) for dim in map(DIMS.__getitem__, names)]
    ids = pa.array([f"p{number:04d}" for number in rng.permutation(num_pairs)])
    views = [rng.permutation(view) if name in shuffled else view for name, view in zip(names, views, strict=True)]
    columns = [pa.array(range(num_pairs)), ids]
    columns += [pa.FixedSizeListArray.from_arrays(pa.array(view.ravel()), view.shape[1]) for view in views]
    table = pa.table(columns, schema=feature_schema({name: DIMS[name] for name in names}))
    artifact = Artifact(Store(str(root)), "features", "features")
    plan = artifact.begin("f", lambda: plan_ranges(num_pairs, 256))
    for shard in plan.shards:
        artifact.commit_shard(plan, shard, table.slice(shard.start, shard.stop - shard.start))
    artifact.finish(plan)
    return artifact


def make_run(
    root: Path, num_workers: int = 1, seen: list[StageProgress] | None = None, max_driver_pairs: int = 0
) -> StageRun:
    """Make a run on Ray, or of the driver itself."""
    out = Artifact(Store(str(root)), "encoder", train.STAGE)
    report = (lambda _: None) if seen is None else seen.append
    resources = Resources(train_workers=num_workers, num_actors=2, max_driver_pairs=max_driver_pairs)
    return StageRun(out, "fit", resources, on_progress=report)


def read_features(features: Artifact, names: Sequence[str] = NAMES) -> dict[str, Vectors]:
    """Read all features at once, sorted by `pair_id`."""
    table = features.read_table().sort_by(PAIR_ID)
    return {name: stack_vectors(table, feature_column(name)) for name in names}


def test_features_are_spooled_in_the_order_of_the_ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    features, scratch = publish_features(tmp_path), tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    spool, whole, rows = spool_features(features, NAMES), read_features(features), np.arange(300)
    assert spool.pair_ids.to_pylist() == [f"p{number:04d}" for number in rows]
    for name in NAMES:
        assert spool.features[name].shape == whole[name].shape
        assert read_rows(spool.features[name], rows).tobytes() == whole[name].tobytes()
        assert isinstance(spool.features[name].source, np.memmap)
    assert list(scratch.iterdir()) == []


def test_only_the_newest_checkpoints_are_kept(tmp_path: Path) -> None:
    fit = EncoderFit(read_features(publish_features(tmp_path)), CONFIG, seed=1)
    store = Store(str(tmp_path / "encoder"))
    for _ in range(3):
        fit.run_epoch()
        publish_checkpoint(fit, store)
    assert store.list_files() == ["epoch-0002.safetensors", "epoch-0003.safetensors"]
    assert read_scores(store) is None
    publish_scores(np.arange(3, dtype=np.float32), store)
    assert store.list_files() == ["scores.safetensors"]
    found = read_scores(store)
    assert found is not None
    assert found.tolist() == [0, 1, 2]


def test_the_pace_counts_what_an_earlier_attempt_did_and_measures_this_one(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    assert read_progress(store) is None
    pace = FitPace(store, is_first=True, total_epochs=10, total_pairs=1000, started=time.monotonic() - 20)
    pace.skip_epochs(4, 100)
    assert pace.describe() == FitProgress(done_epochs=4, total_epochs=10)
    pace.count_pairs(200)
    pace.count_epoch()
    told = read_progress(store)
    assert told is not None
    assert (told.done_epochs, told.total_epochs) == (5, 10)
    assert told.pairs_per_second == pytest.approx(10, rel=0.05)
    assert told.eta_s == pytest.approx(40, rel=0.05)
    other = FitPace(Store(str(tmp_path / "other")), is_first=False, total_epochs=1, total_pairs=1)
    other.count_epoch()
    assert read_progress(other.store) is None


@pytest.mark.parametrize(("max_driver_pairs", "names"), [(300, NAMES), (299, NAMES), (300, tuple(DIMS))])
def test_a_stage_resumed_from_a_checkpoint_publishes_the_bytes_of_the_in_process_fit(
    tmp_path: Path, ray_session: None, max_driver_pairs: int, names: Sequence[str]
) -> None:
    features, seen, opened = publish_features(tmp_path, names=names), list[StageProgress](), list[str]()
    run = make_run(tmp_path, seen=seen, max_driver_pairs=max_driver_pairs)
    run = replace(run, open_ray=lambda: opened.append("Ray"))
    run.out.begin(run.fingerprint, list)
    leave_an_interrupted_training(spool_features(features, names), run.out.store.child(CHECKPOINTS))
    manifest = train.train_encoder(features=features, modalities=names, seed=1, config=CONFIG, run=run)
    whole = save_encoder(fit_encoder(read_features(features, names), config=CONFIG, seed=1))
    assert {name: run.out.store.read_bytes(name) for name in whole} == whole
    files = [name for name in run.out.store.list_files() if not name.startswith("_")]
    expected_files = [WEIGHTS_FILE, CARD_FILE, "metrics.json", OUT_OF_FOLD_FILE]
    assert files == sorted(expected_files) == sorted(record.name for record in manifest.files)
    scores = run.out.store.read_table(OUT_OF_FOLD_FILE)
    assert scores.schema.equals(out_of_fold_schema(), check_metadata=True)
    assert scores[PAIR_ID].to_pylist() == sorted(scores[PAIR_ID].to_pylist())
    expected = measure_out_of_fold(read_features(features, names), CONFIG, seed=1)
    assert scores[OUT_OF_FOLD_ALIGNMENT].to_numpy().tobytes() == expected.tobytes()
    assert manifest.pairs_in == manifest.pairs_out == 300
    assert manifest.properties["dim"] == 16
    assert manifest.properties["modalities"] == list(names)
    assert manifest.properties["encoder_sha256"] == manifest.files[0].sha256
    metrics = json.loads(run.out.store.read_bytes("metrics.json"))
    assert [set(epoch) for epoch in metrics["losses"]] == [{"info_nce", "proto_nce"}] * 4
    assert metrics["before"]["num_pairs"] == metrics["after"]["num_pairs"] == 30
    before, after = (metrics[moment]["modality_gap"] for moment in ("before", "after"))
    assert set(before) == set(after) == {f"{one}->{other}" for one, other in combinations(names, 2)}
    assert len(names) > 2 or before["image->text"] > after["image->text"]  # four epochs are too few for three
    assert [value > 0 for value in metrics["held_back_retrieval"]] == [True] * 4
    assert (metrics["epochs_run"], metrics["stopped_early"]) == (4, False)
    assert {(progress.unit, progress.total) for progress in seen} == {("epochs", 4 + 3 * 3)}
    assert [progress.done for progress in seen] == sorted(progress.done for progress in seen)
    assert seen[-1].done == 13
    assert opened == ["Ray"] * (300 - max_driver_pairs)
    assert any(progress.pairs_per_second and progress.eta_s is not None for progress in seen)


@pytest.mark.parametrize(("shuffled", "num_told"), [((), 0), (("text",), 1)])
def test_modalities_that_do_not_find_each_other_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, shuffled: Sequence[str], num_told: int
) -> None:
    features = publish_features(tmp_path, 1200, shuffled=shuffled)
    run, config = make_run(tmp_path, max_driver_pairs=4096), CONFIG.model_copy(update={"out_of_fold_folds": 0})
    train.train_encoder(features=features, modalities=NAMES, seed=1, config=config, run=run)
    told = "image and text must agree better than pairs put together at random, but of 120 held-back pairs "
    assert [message.startswith(told) for message in caplog.messages] == [True] * num_told


def test_a_stage_that_stops_early_says_so_and_publishes_the_bytes_of_the_in_process_fit(tmp_path: Path) -> None:
    features, seen = publish_features(tmp_path), list[StageProgress]()
    changes = {"epochs": 40, "learning_rate": 3e-2, "early_stop_patience": 1, "out_of_fold_folds": 0}
    config, run = CONFIG.model_copy(update=changes), make_run(tmp_path, seen=seen, max_driver_pairs=4096)
    manifest = train.train_encoder(features=features, modalities=NAMES, seed=1, config=config, run=run)
    whole = save_encoder(fit_encoder(read_features(features), config=config, seed=1))
    assert {name: run.out.store.read_bytes(name) for name in whole} == whole
    metrics = json.loads(run.out.store.read_bytes("metrics.json"))
    retrieval, num_epochs = metrics["held_back_retrieval"], metrics["epochs_run"]
    assert (metrics["stopped_early"], manifest.properties["epochs"]) == (True, num_epochs)
    assert 1 < num_epochs < 40
    assert len(retrieval) == len(metrics["losses"]) == num_epochs
    assert metrics["best_epoch"] == num_epochs - 1 == 1 + int(np.argmax(retrieval))
    assert (seen[-1].done, seen[-1].total) == (40, 40)


def leave_an_interrupted_training(spool: FeatureSpool, checkpoints: Store) -> None:
    """Write what is left where a training was killed after one fold, an epoch of the next, and two of the encoder's."""
    for number, held_out in enumerate(list_folds(300, CONFIG, 1)[:2]):
        folds, store = leave_out(spool.features, held_out, CONFIG), checkpoints.child(f"fold-{number:02d}")
        fit = EncoderFit(*folds, draw_fold_seed(1, number))
        for _ in range(3 if number == 0 else 1):
            fit.run_epoch()
            publish_checkpoint(fit, store)
        if fit.is_finished:
            publish_scores(score_pairs(fit, spool.features, held_out), store)
    fit = EncoderFit(spool.features, CONFIG, 1)
    for _ in range(2):
        fit.run_epoch()
        publish_checkpoint(fit, checkpoints.child("encoder"))


def kill_once(name: str, killed: list[int]) -> Callable[[StageProgress], None]:
    """Return what kills the process of a name as soon as there is progress, and notes its number."""

    def kill(progress: StageProgress) -> None:
        for process in list_children(psutil.Process(), recursive=True) if progress.done and not killed else ():
            if name in name_process(process):
                process.kill()
                killed.append(process.pid)
                return

    return kill


def test_a_worker_that_is_killed_goes_on_from_its_checkpoint(tmp_path: Path, ray_session: None) -> None:
    features, config = publish_features(tmp_path), CONFIG.model_copy(update={"epochs": 60})
    killed = list[int]()
    run = replace(make_run(tmp_path), on_progress=kill_once("_fit_alone", killed))
    train.train_encoder(features=features, modalities=NAMES, seed=1, config=config, run=run)
    assert len(killed) == 1
    whole = save_encoder(fit_encoder(read_features(features), config=config, seed=1))
    assert {name: run.out.store.read_bytes(name) for name in whole} == whole


@pytest.mark.parametrize("max_driver_pairs", [4096, 0])
def test_what_a_worker_raises_on_purpose_is_told_at_once(
    tmp_path: Path, ray_session: None, max_driver_pairs: int
) -> None:
    run = make_run(tmp_path, max_driver_pairs=max_driver_pairs)
    run.out.begin(run.fingerprint, list)
    run.out.store.child(CHECKPOINTS, "fold-00").write_bytes("epoch-0001.safetensors", b"damaged")
    with pytest.raises(ArtifactError, match="checkpoint") as caught:
        train.train_encoder(features=publish_features(tmp_path), modalities=NAMES, seed=1, config=CONFIG, run=run)
    assert classify_error(caught.value) == ExitCode.INFRASTRUCTURE


def test_two_workers_end_close_to_one_though_one_is_killed(tmp_path: Path, ray_session: None) -> None:
    features, killed = publish_features(tmp_path), list[int]()
    run = replace(make_run(tmp_path, num_workers=2), on_progress=kill_once("TrainWorker", killed))
    terms = {"lambda_align": 0.1, "lambda_uniform": 0.1, "learn_temperature": True, "robust_fraction": 0.1}
    config = CONFIG.model_copy(update=terms)
    train.train_encoder(features=features, modalities=NAMES, seed=1, config=config, run=run)
    assert len(killed) == 1
    files = {name: run.out.store.read_bytes(name) for name in (WEIGHTS_FILE, CARD_FILE)}
    vectors = read_features(features)
    alone = fit_encoder(vectors, config=config, seed=1).embed(vectors)
    together = load_encoder(files).embed(vectors)
    scores = run.out.store.read_table(OUT_OF_FOLD_FILE)[OUT_OF_FOLD_ALIGNMENT].to_numpy()
    assert np.allclose(scores, measure_out_of_fold(vectors, config, seed=1), atol=0.02)
    for name in NAMES:
        assert np.einsum("nd,nd->n", alone[name], together[name]).min() > 0.999


def test_unusable_input_is_refused_before_any_worker_starts(tmp_path: Path) -> None:
    features = publish_features(tmp_path, num_pairs=3)
    with pytest.raises(DataError, match="at least 4 pairs, got 3"):
        train.train_encoder(features=features, modalities=NAMES, seed=0, config=CONFIG, run=make_run(tmp_path))
    with pytest.raises(ConfigError, match="at least 2 modalities, got 1"):
        train.train_encoder(features=features, modalities=["text"], seed=0, config=CONFIG, run=make_run(tmp_path))
    many = EncoderConfig(num_prototypes=90)
    with pytest.raises(ConfigError, match="num_prototypes must be at most"):
        train.train_encoder(
            features=publish_features(tmp_path / "more"), modalities=NAMES, seed=0, config=many, run=make_run(tmp_path)
        )
    assert not (tmp_path / "encoder").exists()


def test_an_error_that_a_worker_raised_on_purpose_is_the_cause() -> None:
    meant = DataError("every feature must be finite")
    assert train_group.find_cause(ray.train.WorkerGroupError("failed", {0: meant})) is meant
    full = OSError(errno.ENOSPC, "No space left on device")
    assert train_group.find_cause(ray.train.WorkerGroupError("failed", {0: full})) is full
    crash = ray.train.WorkerGroupError("failed", {0: RuntimeError("CUDA error: device-side assert triggered")})
    assert train_group.find_cause(crash) is crash
