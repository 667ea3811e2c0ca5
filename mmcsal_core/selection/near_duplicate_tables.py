"""What is published of groups of near-duplicates: their sizes beside the picks, and all their pairs in a table."""

from dataclasses import replace

import pyarrow as pa

from mmcsal_core.schema import NEAR_DUPLICATE_COUNT, PAIR_ID, near_duplicate_schema
from mmcsal_core.selection.constraints.near_duplicates import NearDuplicates
from mmcsal_core.selection.stored_pool import StoredPool


def note_group_sizes(stored: StoredPool, groups: NearDuplicates | None) -> StoredPool:
    """Add the size of the group that each pair leads to what is known of the pairs."""
    if groups is None:
        return stored
    return replace(stored, facts=stored.facts.append_column(NEAR_DUPLICATE_COUNT, pa.array(groups.count_members())))


def tabulate_near_duplicates(stored: StoredPool, groups: NearDuplicates) -> pa.Table:
    """Return the pairs of all groups of two or more with the pair that leads each, in the order of pair_id."""
    members, ids = groups.list_members(), stored.facts[PAIR_ID].combine_chunks()
    columns = [ids.take(pa.array(members)), ids.take(pa.array(groups.leaders[members]))]
    return pa.Table.from_arrays(columns, schema=near_duplicate_schema())
