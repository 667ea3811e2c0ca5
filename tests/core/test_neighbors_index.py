import numpy as np
import pytest

from mmcsal_core.errors import ConfigError, DataError
from mmcsal_core.neighbors import NeighborConfig
from mmcsal_core.neighbors.index import (
    NO_NEIGHBOR,
    build_index,
    choose_index_key,
    decode_index,
    encode_index,
    find_rows,
    search_index,
)
from mmcsal_core.neighbors.vectors import Rows, Vectors, scale_to_unit
from tests.core.pair_pools import make_clustered_pool


def rank_by_brute_force(queries: Vectors, pool: Vectors, num_neighbors: int) -> Rows:
    similarities = queries.astype(np.float64) @ pool.astype(np.float64).T
    np.fill_diagonal(similarities, -np.inf)
    return np.argsort(-similarities, axis=1, kind="stable")[:, :num_neighbors]


@pytest.mark.parametrize(("query", "target"), [("image", "image"), ("image", "text")])
def test_a_flat_index_finds_what_brute_force_finds(query: str, target: str) -> None:
    z = make_clustered_pool(600).embeddings
    found = find_rows(z[query], z[target], NeighborConfig(num_neighbors=7))
    np.testing.assert_array_equal(found, rank_by_brute_force(z[query], z[target], 7))


def test_a_chunk_is_searched_with_the_same_bits_wherever_its_shard_begins() -> None:
    z = make_clustered_pool(600).embeddings["image"]
    index = build_index(z, NeighborConfig())
    rows = np.arange(600)
    first = search_index(index, z[256:512], rows[256:512], 20)
    index.search(z[:100], 5)
    second = search_index(decode_index(encode_index(index)), z[256:512], rows[256:512], 20)
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])


def test_equal_neighbours_come_in_the_order_of_their_rows() -> None:
    z = np.tile(np.array([[0.6, 0.8]], dtype=np.float32), (9, 1))
    found, similarities = search_index(build_index(z, NeighborConfig()), z, np.arange(9), 8)
    assert [sorted(row) for row in found.tolist()] == found.tolist()
    assert all(i not in row for i, row in enumerate(found.tolist()))
    np.testing.assert_allclose(similarities, 1.0, rtol=1e-6)


def test_the_number_of_neighbours_is_clipped_to_the_other_pairs() -> None:
    z = make_clustered_pool(5).embeddings["image"]
    assert find_rows(z, z, NeighborConfig(num_neighbors=64)).shape == (5, 4)
    assert find_rows(z[:1], z[:1], NeighborConfig()).shape == (1, 0)


def test_auto_is_exact_up_to_200_000_rows_and_has_lists_above() -> None:
    assert choose_index_key(200_000, NeighborConfig()) == "Flat"
    assert choose_index_key(250_000, NeighborConfig()) == "IVF2000,Flat"


def test_inverted_lists_are_seeded_survive_bytes_and_say_where_they_find_too_few() -> None:
    z = make_clustered_pool(600).embeddings["image"]
    config = NeighborConfig(index_key="IVF8,Flat", nprobe=1, num_neighbors=500)
    data = encode_index(build_index(z, config))
    assert data == encode_index(build_index(z, config))
    found, similarities = search_index(decode_index(data), z, np.arange(600), 500)
    is_absent = found == NO_NEIGHBOR
    assert is_absent.any()
    assert (similarities[is_absent] == 0).all()
    assert not (np.diff(is_absent.astype(int), axis=1) < 0).any()
    assert all(i not in row for i, row in enumerate(found.tolist()))


def test_an_unknown_index_key_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"got 'Flatt' \(.*could not parse.*write e\.g\. 'Flat'"):
        build_index(np.eye(4, dtype=np.float32), NeighborConfig(index_key="Flatt"))


def test_vectors_are_scaled_to_unit_length_and_bad_rows_are_named() -> None:
    good = np.array([[3.0, 4.0], [1.0, 0.0]])
    np.testing.assert_allclose(scale_to_unit({"image": good})["image"], [[0.6, 0.8], [1.0, 0.0]], rtol=1e-6)
    with pytest.raises(DataError, match="row 1 has a zero text embedding"):
        scale_to_unit({"image": good, "text": np.array([[1.0, 0.0], [0.0, 0.0]])})
    with pytest.raises(DataError, match="row 0 has NaN or infinity in the image embedding"):
        scale_to_unit({"image": np.array([[np.nan, 1.0]])})
    with pytest.raises(DataError, match="same number of pairs"):
        scale_to_unit({"image": good, "text": good[:1]})
