"""What a configuration asks of its source, checked from the source's headers before anything is written."""

from jobs.config import JobConfig
from mmcsal_core.corpus.sources import SourceListing
from mmcsal_core.corpus.sources.columns import metadata_fields
from mmcsal_core.corpus.sources.pairs import pair_schema
from mmcsal_core.errors import ConfigError
from pipelines.coreset_demands import check_condition


def check_selection(config: JobConfig, listing: SourceListing) -> None:
    """Make sure that the selection's budget, columns and condition fit the source.

    Raises:
        GateError: the source has fewer pairs than the budget.
        ConfigError: a column is not there, or the condition does not fit the columns.
    """
    config.selection.count_picks(listing.num_pairs)
    names = [field.name for field in metadata_fields(listing.source, config.modalities, listing.schema)]
    for key, column in config.selection.list_columns().items():
        if column not in names:
            raise ConfigError(
                f"selection.{key} names a metadata column, got {column!r}; the source has {', '.join(names) or 'none'}"
            )
    check_condition(config.selection, pair_schema(listing, config.modalities), list(config.modalities))
