"""Report stage: the artifacts of a run in, `report.json` and `index.html` out.

In: every earlier artifact. Out: the numbers for machines and one self-contained page for people, with a strict
content security policy, no script and no request to anywhere. Runs in the driver, holding the selection, the ids of
the pool and at most `max_pool_rows` vectors a modality. Neither file holds a time, so equal runs publish equal bytes.

Not chosen: a notebook or a dashboard, which need a server or a kernel to be read a year later.
"""

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from mmcsal_core.artifacts import Manifest
from mmcsal_core.corpus.modality import ModalityConfig
from mmcsal_core.reporting.gallery import Card, GalleryView, make_cards
from mmcsal_core.reporting.numbers import (
    MeasureSettings,
    ReportInputs,
    collect_numbers,
    list_metadata_columns,
    locate_ids,
)
from mmcsal_core.reporting.page import render_page
from mmcsal_core.schema import PAIR_ID
from pipelines.report_config import ReportConfig
from pipelines.stage_names import REPORT
from pipelines.stage_run import StageRun

STAGE = REPORT


def write_report(
    *,
    inputs: ReportInputs,
    modalities: Mapping[str, ModalityConfig],
    source_options: Mapping[str, Any],
    seed: int,
    config: ReportConfig,
    run: StageRun,
) -> Manifest:
    """Write `report.json` and `index.html`; a pair whose content cannot be read is shown with the reason.

    Args:
        inputs: every earlier artifact of the run.
        modalities: resolved modalities, in the order of the configuration.
        source_options: storage options of the source, to read the gallery's content.
        seed: of the random draws, of k-means and of the sample of a large pool.
        config: what is shown.
        run: where to publish.

    Raises:
        ArtifactError: an artifact is unfinished, or two do not fit each other.
        ConfigError: the projection's package is not there.
    """
    settings = MeasureSettings(
        max_pool_rows=config.max_pool_rows,
        max_budget=config.max_budget,
        num_random_draws=config.num_random_draws,
        seed=seed,
        projection=config.projection,
        max_projected=config.max_projected,
    )
    numbers = collect_numbers(inputs, list(modalities), settings)
    view = GalleryView(modalities, list_metadata_columns(inputs.pairs, list(modalities)), 2 * config.thumbnail_px)
    cards = _make_gallery(inputs, view, config.gallery_size, source_options)
    page = render_page(numbers, cards, title=config.title, thumbnail_px=config.thumbnail_px)
    plan = run.begin(list)  # now: what was published before stays until here
    files = [
        run.out.store.write_json("report.json", numbers),
        run.out.store.write_bytes("index.html", page.encode()),
    ]
    return run.finish(plan, files=files, num_pairs=numbers["selection"]["num_selected"])


def _make_gallery(
    inputs: ReportInputs, view: GalleryView, gallery_size: int, source_options: Mapping[str, Any]
) -> list[Card]:
    picks = inputs.selection.read_table().slice(0, gallery_size)
    if picks.num_rows == 0:
        return []
    rows = locate_ids(inputs.pairs, picks[PAIR_ID])
    contents = pa.concat_tables([inputs.pairs.read_rows(int(row), int(row) + 1) for row in rows]).combine_chunks()
    return make_cards(picks, contents, view, source_options)
