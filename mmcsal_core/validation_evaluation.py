"""The rules of a published evaluation, checked on its manifest and on one split after the other."""

import pyarrow as pa
import pyarrow.compute as pc

from mmcsal_core.artifacts import Manifest
from mmcsal_core.schema_evaluation import PICK_MEASURES, PROBE_MEASURES, SPLIT, contest_schema


class EvaluationInspector:
    """Looks at the rows of one split after the other."""

    def __init__(self) -> None:
        self._problems: list[str] = []
        self._num_splits = 0

    def inspect(self, table: pa.Table) -> None:
        """Look at the rows of the next split."""
        number, self._num_splits = self._num_splits, self._num_splits + 1
        if not table.schema.equals(contest_schema()):
            self._problems.append(f"split {number} has the columns {table.schema.names}, not {contest_schema().names}")
            return
        if set(table[SPLIT].to_pylist()) != {number}:
            self._problems.append(f"{SPLIT} is not {number} in every row of shard {number}")
        for name in (*PROBE_MEASURES, *PICK_MEASURES):
            bounds = pc.min_max(table[name]).as_py()
            if bounds["min"] is not None and not 0 <= bounds["min"] <= bounds["max"] <= 1:
                self._problems.append(f"{name} is not in 0 to 1 in split {number}")
        counts = [table[name].to_numpy() for name in ("num_labels", "num_picks", "budget")]
        if not ((counts[0] >= 0) & (counts[0] <= counts[1]) & (counts[1] <= counts[2])).all():
            self._problems.append(f"labels, picks and budget do not rise in every row of split {number}")

    def find_problems(self) -> list[str]:
        """Return what was wrong in the splits seen so far."""
        return self._problems


def find_stale_inputs(evaluation: Manifest, embeddings: Manifest) -> list[str]:
    """Return what of an evaluation is not about these embeddings, in words; nothing where all is well."""
    again = "run the stage 'evaluate' again or delete evaluation/"
    if evaluation.properties.get("embeddings") != embeddings.fingerprint:
        return [f"embeddings/ was made anew since; {again}"]
    counts = sorted({shard.pairs_in for shard in evaluation.shards})
    if counts != [embeddings.pairs_out]:
        return [f"its splits are of {counts} pairs, but embeddings/ put out {embeddings.pairs_out}; {again}"]
    return []
