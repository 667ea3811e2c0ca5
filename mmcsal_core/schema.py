"""Every column name and Arrow schema of a run, once.

A modality is named by the configuration (`image`, `text`, `speech`, ...); the functions below build its column names.
Published fields carry a `comment` and a `unit` in their metadata, so that a reader of the Parquet needs no manual.
"""

from collections.abc import Mapping, Sequence

import pyarrow as pa

SCHEMA_VERSION = "1"

PAIR_ID = "pair_id"
SOURCE = "source"
SOURCE_ROW = "source_row"
CONTENT_KEY = "content_key"
ROW = "row"
ALIGNMENT = "alignment"
CONSISTENCY = "consistency"
SUSPICION = "suspicion"
SUSPICION_FILE = "suspicion.parquet"
"""File of the neighbors artifact that says of each pair how far it is suspected of being mispaired."""

NEIGHBOR_ID = "neighbor_id"
RELATION = "relation"
NEIGHBOR_RANK = "neighbor_rank"
SIMILARITY = "similarity"
OUT_OF_FOLD_ALIGNMENT = "out_of_fold_alignment"
NEAR_DUPLICATE_GROUP = "near_duplicate_group"
NEAR_DUPLICATE_COUNT = "near_duplicate_count"
OUT_OF_FOLD_FILE = "out_of_fold.parquet"
"""File of the encoder artifact with the cosine of each pair by an encoder that has not seen it."""

GROWN_FROM = "grown_from"
"""Property of the manifests of features/ and encoder/ of a run that has grown: the earlier run, and what is from it."""

COST_COLUMN = "cost_column"
"""Key of a selection's metadata: the column that gains were divided by before they were compared, if any."""


def uri_column(modality: str) -> str:
    """Name the column that says where a pair's content of this modality lies."""
    return f"{modality}_uri"


def bytes_column(modality: str) -> str:
    """Name the column that holds the encoded content itself, where `store: bytes` is configured."""
    return f"{modality}_bytes"


def feature_column(modality: str) -> str:
    """Name the column of backbone vectors."""
    return f"{modality}_feature"


def hidden_column(modality: str) -> str:
    """Name the column of what goes into a backbone's last block, where that block is trained."""
    return f"{modality}_hidden"


def embedding_column(modality: str) -> str:
    """Name the column of unit vectors in the shared space."""
    return f"{modality}_embedding"


def prototype_column(modality: str) -> str:
    """Name the column of prototype numbers."""
    return f"prototype_{modality}"


def backbone_space(modality: str) -> str:
    """Name the space of a modality's backbone, reduced to its principal components, e.g. `image.backbone`."""
    return f"{modality}.backbone"


def relation_name(query_space: str, pool_space: str) -> str:
    """Name the neighbour relation from one space to another, e.g. `image->text`; a modality names its embeddings."""
    return f"{query_space}->{pool_space}"


def describe_field(name: str, kind: pa.DataType, comment: str, unit: str = "", *, nullable: bool = True) -> pa.Field:
    """Build a field whose metadata explains it: `comment` in a sentence, `unit` in a word (may be empty)."""
    return pa.field(name, kind, nullable=nullable, metadata={"comment": comment, "unit": unit})


def vector_type(dim: int) -> pa.DataType:
    """Return the type of every published vector: FixedSizeList<float32, dim>."""
    return pa.list_(pa.float32(), dim)


def hidden_type(dim: int) -> pa.DataType:
    """Return the type of what goes into a last block, for the stages of the run alone: FixedSizeList<float16, dim>."""
    return pa.list_(pa.float16(), dim)


def reject_schema() -> pa.Schema:
    """Return the schema of the rows that a stage could not use."""
    return pa.schema(
        [
            describe_field(PAIR_ID, pa.string(), "id of the pair, null where none could be built"),
            describe_field(SOURCE, pa.string(), "source file that the pair came from", nullable=False),
            describe_field(SOURCE_ROW, pa.int64(), "row of the pair in its source file", "row", nullable=False),
            describe_field("modality", pa.string(), "modality at fault, null where the pair as a whole is"),
            describe_field("stage", pa.string(), "stage that rejected the pair", nullable=False),
            describe_field("reason", pa.string(), "short name of the reason, stable across versions", nullable=False),
            describe_field("message", pa.string(), "what was found and what to do", nullable=False),
        ]
    )


def feature_schema(dims: Mapping[str, int], hidden_dims: Mapping[str, int] | None = None) -> pa.Schema:
    """Return the schema of `features/`.

    Args:
        dims: length of the backbone vector of every modality.
        hidden_dims: length of what goes into the last block, of modalities whose block is trained.
    """
    fields = [
        describe_field(
            ROW, pa.int64(), "position of the pair in pairs/, counted over all shards", "row", nullable=False
        ),
        describe_field(PAIR_ID, pa.string(), "unique id of the pair", nullable=False),
    ]
    fields += [
        describe_field(
            feature_column(name), vector_type(dim), f"{name} backbone vector, not normalised", nullable=False
        )
        for name, dim in dims.items()
    ]
    fields += [
        describe_field(
            hidden_column(name),
            hidden_type(dim),
            f"what goes into the last block of the {name} backbone, flat, in half precision",
            nullable=False,
        )
        for name, dim in (hidden_dims or {}).items()
    ]
    return pa.schema(fields)


def embedding_schema(modalities: Sequence[str], dim: int) -> pa.Schema:
    """Return the schema of `embeddings/`: per modality one unit vector of length `dim` and one prototype number."""
    fields = [describe_field(PAIR_ID, pa.string(), "unique id of the pair", nullable=False)]
    fields += [
        describe_field(
            embedding_column(name),
            vector_type(dim),
            f"{name} unit vector in the shared space",
            nullable=False,
        )
        for name in modalities
    ]
    fields += [
        describe_field(
            prototype_column(name),
            pa.int32(),
            f"nearest {name} prototype of the encoder",
            "id",
            nullable=False,
        )
        for name in modalities
    ]
    fields.append(
        describe_field(
            ALIGNMENT,
            pa.float32(),
            "cosine of the pair's embeddings, mean over modality pairs",
            "cosine",
            nullable=False,
        )
    )
    return pa.schema(fields)


def neighbor_schema() -> pa.Schema:
    """Return the schema of `neighbors/`: one row per edge of a k-nearest-neighbour relation."""
    return pa.schema(
        [
            describe_field(PAIR_ID, pa.string(), "pair that was asked about", nullable=False),
            describe_field(
                RELATION, pa.string(), "query space->pool space: a modality, or its .backbone", nullable=False
            ),
            describe_field(
                NEIGHBOR_RANK,
                pa.int32(),
                "0 is the nearest; the pair itself is left out",
                "rank",
                nullable=False,
            ),
            describe_field(NEIGHBOR_ID, pa.string(), "pair that was found", nullable=False),
            describe_field(SIMILARITY, pa.float32(), "cosine of the two vectors", "cosine", nullable=False),
        ]
    )


def out_of_fold_schema() -> pa.Schema:
    """Return the schema of `encoder/out_of_fold.parquet`, sorted by pair_id."""
    return pa.schema(
        [
            describe_field(PAIR_ID, pa.string(), "unique id of the pair", nullable=False),
            describe_field(
                OUT_OF_FOLD_ALIGNMENT,
                pa.float32(),
                "cosine of the pair's embeddings by an encoder fitted without the pair, mean over modality pairs",
                "cosine",
                nullable=False,
            ),
        ]
    )


def near_duplicate_schema() -> pa.Schema:
    """Return the schema of `selection/near_duplicates.parquet`: the pairs of all groups of two or more."""
    return pa.schema(
        [
            describe_field(PAIR_ID, pa.string(), "pair of the pool", nullable=False),
            describe_field(
                NEAR_DUPLICATE_GROUP, pa.string(), "pair that leads its group, and alone may be picked", nullable=False
            ),
        ]
    )


def suspicion_schema() -> pa.Schema:
    """Return the schema of `neighbors/suspicion.parquet`, sorted by pair_id."""
    return pa.schema([describe_field(PAIR_ID, pa.string(), "unique id of the pair", nullable=False), *witness_fields()])


def witness_fields() -> list[pa.Field]:
    """Return what is said of a pair that may be mispaired, in `neighbors/suspicion.parquet` and in `selection/`."""
    return [
        describe_field(
            OUT_OF_FOLD_ALIGNMENT,
            pa.float32(),
            "cosine of the pair's embeddings by an encoder fitted without the pair; null where none was fitted",
            "cosine",
        ),
        describe_field(
            CONSISTENCY,
            pa.float32(),
            "how far the modalities agree on the pair's neighbours, the nearest counting most",
            "0 to 1",
            nullable=False,
        ),
        describe_field(
            SUSPICION,
            pa.float32(),
            "share of the other pairs that look better paired: by alignment less what is usual nearby, and consistency",
            "0 to 1",
            nullable=False,
        ),
    ]


def selection_schema(modalities: Sequence[str], carried: Sequence[pa.Field]) -> pa.Schema:
    """Return the schema of `selection/`: the ranked pairs, the `carried` source and metadata columns, the run."""
    fields = [
        describe_field(PAIR_ID, pa.string(), "unique id of the pair", nullable=False),
        describe_field(
            "rank",
            pa.int32(),
            "order of picking, from 0; any prefix is a smaller answer",
            "rank",
            nullable=False,
        ),
        describe_field("phase", pa.string(), "part of the strategy that picked the pair", nullable=False),
        describe_field(
            "gain",
            pa.float32(),
            "rise of the objective; never rises within a phase",
            "objective",
            nullable=False,
        ),
        describe_field(
            "coverage_term",
            pa.float32(),
            "part of the gain from covering the pool",
            "objective",
            nullable=False,
        ),
        describe_field(
            "diversity_term",
            pa.float32(),
            "part of the gain from distance to earlier picks",
            "objective",
            nullable=False,
        ),
        describe_field(
            "alignment_term",
            pa.float32(),
            "part of the gain from trust in the pair",
            "objective",
            nullable=False,
        ),
        describe_field(ALIGNMENT, pa.float32(), "cosine of the pair's embeddings", "cosine", nullable=False),
        *witness_fields(),
        describe_field(
            "cluster_weight",
            pa.int64(),
            "pool pairs that this pick stands for, itself included",
            "pairs",
            nullable=False,
        ),
        describe_field("nearest_selected_id", pa.string(), "nearest pair picked earlier, null at rank 0"),
        describe_field(
            "nearest_selected_distance",
            pa.float32(),
            "root mean square over modalities of the distance between unit vectors, null at rank 0",
            "0 to 2",
        ),
        describe_field(
            NEAR_DUPLICATE_COUNT,
            pa.int64(),
            "pairs in the group of near-duplicates that this pick leads, itself included; null where none were sought",
            "pairs",
        ),
    ]
    fields += [
        describe_field(
            prototype_column(name),
            pa.int32(),
            f"nearest {name} prototype of the encoder",
            "id",
            nullable=False,
        )
        for name in modalities
    ]
    fields += list(carried)
    fields += [
        describe_field("stratum", pa.string(), "group of the pair where a quota column is configured, else null"),
        describe_field("run_id", pa.string(), "run that made this selection", nullable=False),
    ]
    return pa.schema(fields)
