"""`mmcsal plan`: what a run will take, from headers and lists of pairs. Nothing is started and nothing is written.

Throughput is that of the features stage, which is nearly all of a run: pairs a second of one actor on one core,
measured for the embedded backbones on a shared x86-64 core and therefore rough. For hub models it is unknown until you
measure it (`mmcsal run --until features` on a few thousand pairs) and put it in `pricing.pairs_per_second`.
"""

from jobs.config import JobConfig
from jobs.earlier_run import find_growth
from jobs.preflight import check_evaluation, check_selection, count_picks, read_lists
from mmcsal_core.artifacts import SUCCESS, plan_ranges
from mmcsal_core.corpus.modality import ModalityConfig
from mmcsal_core.corpus.sources import list_source
from mmcsal_core.settings import Settings

ROWS_PER_SECOND: dict[str, float] = {
    "efficientnet-lite0": 21.0,  # at 224 px; scales with the number of pixels
    "wordllama": 20_000.0,
    "minilm-onnx": 200.0,
    "logmel": 400.0,
    "precomputed": 100_000.0,
}
_REFERENCE_SIDE_PX = 224
_MODEL_BYTES = 1_000_000_000


class Estimate(Settings):
    """What a run will take. `hours` and `cost` are None where a backbone's throughput is unknown.

    `num_pairs` is not exact where the source is tar archives that no run has read yet. `num_new_pairs` are those
    that the run it grows from does not have, if none of that run's pairs has changed or gone.
    """

    source: str
    num_files: int
    num_pairs: int
    num_new_pairs: int
    is_exact: bool
    source_bytes: int
    num_shards: int
    decoded_bytes_per_shard: int
    memory_per_actor_bytes: int
    pairs_per_second: float | None
    hours: float | None
    cost: float | None
    budget: int | None


def estimate_run(config: JobConfig) -> Estimate:
    """Estimate a run from the headers of its source.

    Raises:
        DataError: the source or a list of pairs is missing or unreadable.
        ConfigError: the configuration does not fit the source.
        GateError: the source has fewer pairs than the budget.
    """
    listing = list_source(config.source, config.modalities, config.source_options, config.source_index)
    check_selection(config, listing, read_lists(config))
    check_evaluation(config, listing)
    num_new = listing.num_pairs - _count_known(config)
    shards = plan_ranges(listing.num_pairs, config.resources.rows_per_shard)
    rows = max((shard.stop - shard.start for shard in shards), default=0)
    decoded = rows * sum(_count_decoded_bytes(modality) for modality in config.modalities.values())
    speed = config.pricing.pairs_per_second or _estimate_speed(config)
    hours = None if speed is None else max(0, num_new) / (speed * config.resources.num_actors) / 3600
    price = config.pricing.cost_per_hour
    return Estimate(
        source=config.source.url,
        num_files=len(listing.files),
        num_pairs=listing.num_pairs,
        num_new_pairs=max(0, num_new),
        is_exact=not listing.is_estimated,
        source_bytes=listing.num_bytes,
        num_shards=len(shards),
        decoded_bytes_per_shard=decoded,
        memory_per_actor_bytes=_MODEL_BYTES + 3 * decoded,
        pairs_per_second=speed,
        hours=hours,
        cost=None if hours is None or price is None else hours * price,
        budget=count_picks(config, listing),
    )


def _count_known(config: JobConfig) -> int:
    growth = find_growth(config)
    if growth is None or not growth.earlier.features.store.exists(SUCCESS):
        return 0
    return growth.earlier.features.read_manifest().pairs_out


def describe_estimate(estimate: Estimate) -> dict[str, str]:
    """Return an estimate in words for people."""
    unknown = "unknown: measure it and set pricing.pairs_per_second"
    budget = "as many as the other limits allow" if estimate.budget is None else f"{estimate.budget:,}"
    pairs = f"{'' if estimate.is_exact else 'about '}{estimate.num_pairs:,}"
    new = "" if estimate.num_new_pairs == estimate.num_pairs else f", about {estimate.num_new_pairs:,} of them new"
    speed, hours, cost = estimate.pairs_per_second, estimate.hours, estimate.cost
    return {
        "source": f"{estimate.source}, {estimate.num_files} files, {estimate.source_bytes / 1e6:,.1f} MB",
        "pairs": f"{pairs}{new}, of which {budget} are to be picked",
        "shards": f"{estimate.num_shards:,}, decoded at most {estimate.decoded_bytes_per_shard / 1e6:,.0f} MB each",
        "memory per actor": f"about {estimate.memory_per_actor_bytes / 1e9:,.1f} GB",
        "features": unknown if speed is None else f"about {speed:,.0f} pairs/s an actor",
        "time": unknown if hours is None else f"about {hours:,.2f} h, plus a minute or two of starting up",
        "cost": "set pricing.cost_per_hour" if cost is None else f"about {cost:,.2f}",
    }


def _count_decoded_bytes(modality: ModalityConfig) -> int:
    picture = modality.image_size**2 * 3
    sizes = {
        "image": picture,
        "video": picture * modality.num_frames,
        "audio": int(modality.sample_rate * modality.window_s) * 4,
        "text": 200,
        "vector": 8_192,
    }
    return sizes[modality.resolved_kind]


def _estimate_speed(config: JobConfig) -> float | None:
    seconds = 0.0
    for modality in config.modalities.values():
        rate = ROWS_PER_SECOND.get(modality.resolved_backbone)
        if rate is None:
            return None
        if modality.resolved_kind in ("image", "video"):
            rate *= (_REFERENCE_SIDE_PX / modality.image_size) ** 2
        if modality.resolved_kind == "video":
            rate /= modality.num_frames
        seconds += 1 / rate
    return 1 / seconds
