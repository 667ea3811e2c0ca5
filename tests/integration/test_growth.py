"""A pool that grows: what is known is taken over and never read again, what is new or corrected is not."""

import json
import shutil
from pathlib import Path
from typing import Any

import duckdb
import pytest
from ray._private.state import actors

from jobs.check import check_run
from jobs.config import JobConfig, parse_config
from jobs.estimate import estimate_run
from jobs.progress import JsonReporter
from jobs.run import run_job, select_again
from jobs.steps import lay_out
from mmcsal_core.errors import ConfigError, DataError
from mmcsal_core.validation import validate_run
from pipelines.stage_names import STAGES
from tests.corpora import make_image_text_table
from tests.integration.job_process import make_config, read_files, read_results

NUM_EARLIER, NUM_ADDED = 520, 170
CORRECTED = "pair-000005"


class GrowingCorpus:
    """A manifest with captions, and pictures in files of their own.

    Args:
        folder: of everything.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.rows = [
            {"id": f"pair-{number:06d}", "image": row["image"], "caption": row["caption"]}
            for number, row in enumerate(make_image_text_table(NUM_EARLIER + NUM_ADDED).to_pylist())
        ]

    def write(self, rows: list[dict[str, Any]]) -> None:
        """Write the manifest, and the pictures that have not been written before."""
        listed = []
        for row in rows:
            listed.append({"id": row["id"], "image": f"{row['id']}.png", "caption": row["caption"]})
            if row["image"] is not None:
                (self.folder / f"{row['id']}.png").write_bytes(row["image"])
        lines = "\n".join(json.dumps(row) for row in listed)
        (self.folder / "pairs.jsonl").write_text(lines)

    def write_earlier(self) -> None:
        """Write the first pairs."""
        self.write(self.rows[:NUM_EARLIER])

    def grow(self) -> None:
        """Delete the pictures of all earlier pairs, correct one caption, and put the new pairs among the others."""
        for picture in self.folder.glob("*.png"):
            picture.unlink()
        earlier = [{**row, "image": None} for row in self.rows[:NUM_EARLIER]]
        earlier[5]["caption"] = "quite another caption"
        self.write(earlier[:100] + self.rows[NUM_EARLIER:] + earlier[100:])


def _configure(corpus: GrowingCorpus, output: Path, run_id: str, **changes: Any) -> JobConfig:
    values = make_config(corpus.folder, output, run_id=run_id)
    values["source"] = {"kind": "manifest", "url": str(corpus.folder / "pairs.jsonl"), "pair_id_column": "id"}
    values["modalities"] = {"image": {"uri_column": "image", "image_size": 32}, "text": {"column": "caption"}}
    return parse_config(values | changes)


def _grow(corpus: GrowingCorpus, output: Path, run_id: str = "two", **grow: Any) -> JobConfig:
    selection = {"budget": 20, "kernel": {"bandwidth_neighbor": 10}}
    selection["labelled"] = f"{output}/run_id=one/selection/data/*.parquet"
    return _configure(corpus, output, run_id, selection=selection, grow={"from_run": "one"} | grow)


def _read(config: JobConfig, query: str) -> list[Any]:
    """Ask DuckDB; `{}` in the query is the run's folder."""
    return duckdb.execute(query.format(config.run_store.url)).fetchall()


def _count_embedding_actors() -> int:
    """Count the actors that have embedded in this Ray, dead ones too."""
    return sum("_EmbedAndCommit" in actor["ActorClassName"] for actor in actors().values())


@pytest.fixture(scope="module")
def grown(ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[GrowingCorpus, JobConfig, JobConfig]:
    """A corpus that has grown, the run before and the run after."""
    folder = tmp_path_factory.mktemp("growth")
    corpus = GrowingCorpus(folder / "corpus")
    corpus.write_earlier()
    one = _configure(corpus, folder / "out", "one")
    assert run_job(one, JsonReporter()).executed == STAGES
    corpus.grow()
    two = _grow(corpus, folder / "out")
    assert run_job(two, JsonReporter()).executed == STAGES
    return corpus, one, two


def test_known_pairs_are_not_read_again_and_corrected_ones_are(
    grown: tuple[GrowingCorpus, JobConfig, JobConfig],
) -> None:
    _, one, two = grown
    manifest = lay_out(two).features.read_manifest()
    assert manifest.properties["grown_from"]["num_pairs"] == NUM_EARLIER - 1
    rejected = _read(two, "SELECT pair_id, reason FROM '{}/rejects/data/features.parquet'")
    assert rejected == [(CORRECTED, "missing_file")]
    assert manifest.pairs_out == NUM_EARLIER - 1 + NUM_ADDED
    query = "SELECT pair_id, image_feature, text_feature FROM '{}/features/data/*.parquet' ORDER BY pair_id"
    before, after = ({row[0]: row[1:] for row in _read(run, query)} for run in (one, two))
    del before[CORRECTED]
    assert {pair_id: after[pair_id] for pair_id in before} == before
    rows = _read(two, "SELECT row FROM '{}/features/data/*.parquet'")
    assert rows == sorted(rows)
    assert check_run(two.run_store).failed == ()


def test_two_actors_publish_the_same_bytes_and_embed_only_what_is_new(
    grown: tuple[GrowingCorpus, JobConfig, JobConfig],
) -> None:
    corpus, one, two = grown
    num_before = _count_embedding_actors()
    changes = ["resources.num_actors=2", "resources.cpus_per_actor=0.5"]
    on_actors = parse_config(_grow(corpus, Path(one.output), "actors").model_dump(mode="json"), changes)
    assert run_job(on_actors, JsonReporter(), until="features").executed == ("ingest", "features")
    assert _count_embedding_actors() - num_before == 2
    published = [lay_out(config).features for config in (on_actors, two)]
    results = [read_results(Path(features.store.url)) for features in published]
    assert results[0] == results[1]
    manifests = [features.read_manifest().model_copy(update={"created_at": ""}) for features in published]
    assert manifests[0] == manifests[1]
    # the pictures of known pairs are gone: to embed one again would be to reject it
    assert manifests[0].rejects_by_reason == {"missing_file": 1}


def test_the_encoder_is_kept_and_has_not_seen_what_is_new(grown: tuple[GrowingCorpus, JobConfig, JobConfig]) -> None:
    _, one, two = grown
    kept = ("encoder.safetensors", "encoder.json", "metrics.json")
    encoders = [read_files(Path(lay_out(config).encoder.store.url)) for config in (one, two)]
    assert [encoders[1][name] for name in kept] == [encoders[0][name] for name in kept]
    assert lay_out(two).encoder.read_manifest().properties["grown_from"] == {"run_id": "one", "num_pairs": NUM_EARLIER}
    query = (
        "SELECT pair_id, out_of_fold_alignment = alignment FROM '{0}/neighbors/suspicion.parquet' "
        "JOIN read_parquet('{0}/embeddings/data/*.parquet') USING (pair_id)"
    )
    is_unseen = dict(_read(two, query))
    assert sum(is_unseen.values()) == NUM_ADDED
    assert all(is_unseen[row["id"]] for row in grown[0].rows[NUM_EARLIER:])


def test_the_further_budget_is_picked_beside_what_is_labelled(
    grown: tuple[GrowingCorpus, JobConfig, JobConfig],
) -> None:
    _, one, two = grown
    first, second = (
        {row[0] for row in _read(config, "SELECT pair_id FROM '{}/selection/data/*.parquet'")} for config in (one, two)
    )
    assert len(second) == 20
    assert not first & second
    assert any(int(pair_id.removeprefix("pair-")) >= NUM_EARLIER for pair_id in second)


def test_a_grown_run_is_up_to_date_even_when_the_earlier_one_is_gone(
    grown: tuple[GrowingCorpus, JobConfig, JobConfig], tmp_path: Path
) -> None:
    corpus, one, _ = grown
    shutil.copytree(one.output, tmp_path / "out")
    two = _grow(corpus, tmp_path / "out")
    picks = tmp_path / "out" / "run_id=one" / "selection" / "data"
    kept = shutil.copytree(picks, tmp_path / "labelled")
    shutil.rmtree(tmp_path / "out" / "run_id=one")
    listed = two.selection.model_copy(update={"labelled": f"{kept}/*.parquet"})
    moved = two.model_copy(update={"selection": listed})
    assert run_job(moved, JsonReporter()).executed == ("coreset", "report")  # the list lies in another place
    assert run_job(moved, JsonReporter()).executed == ()
    assert check_run(two.run_store).failed == ()
    assert select_again(moved, JsonReporter()).executed == ()


def test_retraining_takes_vectors_over_and_fits_a_new_encoder(
    grown: tuple[GrowingCorpus, JobConfig, JobConfig],
) -> None:
    corpus, one, two = grown
    three = _grow(corpus, Path(one.output), "three", retrain=True)
    assert run_job(three, JsonReporter()).executed == STAGES
    assert validate_run(three.run_store).ok
    assert read_files(Path(three.run_store.url) / "features" / "data") == read_files(
        Path(two.run_store.url) / "features" / "data"
    )
    weights = [lay_out(config).encoder.store.read_bytes("encoder.safetensors") for config in (two, three)]
    assert weights[0] != weights[1]
    assert "grown_from" not in lay_out(three).encoder.read_manifest().properties


def test_the_plan_counts_only_what_is_new(grown: tuple[GrowingCorpus, JobConfig, JobConfig]) -> None:
    _, one, two = grown
    assert estimate_run(one).num_new_pairs == NUM_EARLIER + NUM_ADDED
    estimate = estimate_run(two)
    assert (estimate.num_pairs, estimate.num_new_pairs) == (NUM_EARLIER + NUM_ADDED, NUM_ADDED)
    assert estimate.hours is not None
    assert estimate.hours < (estimate_run(one).hours or 0) / 3


def test_a_run_grows_from_a_finished_run_of_the_same_settings(
    grown: tuple[GrowingCorpus, JobConfig, JobConfig],
) -> None:
    corpus, one, _ = grown
    output = Path(one.output)
    with pytest.raises(DataError, match=r"run_id=absent/pairs is missing or unfinished; finish that run first"):
        run_job(_grow(corpus, output, "four", from_run="absent"), JsonReporter())
    other = _grow(corpus, output, "four").model_dump(mode="json")
    other["modalities"]["image"]["image_size"] = 48
    with pytest.raises(ConfigError, match=r"modalities\.image\.image_size differ; .* leave grow.from_run out$"):
        run_job(parse_config(other), JsonReporter())
    other = _grow(corpus, output, "four").model_dump(mode="json")
    other["encoder"]["dim"] = 16
    with pytest.raises(ConfigError, match=r"encoder\.dim differ; .* grow\.retrain: true"):
        run_job(parse_config(other), JsonReporter())
    swapped = _grow(corpus, output, "four").model_dump(mode="json")
    swapped["modalities"] = dict(reversed(swapped["modalities"].items()))
    with pytest.raises(ConfigError, match=r"the order of modalities differ"):
        run_job(parse_config(swapped), JsonReporter())
    assert not (output / "run_id=four" / "pairs").exists()
