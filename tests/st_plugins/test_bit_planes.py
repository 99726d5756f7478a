import numpy as np
import pytest

import reference
from st_plugins import bit_planes
from st_plugins.bit_planes import BitPlanes
from st_plugins.errors import InputError, ShapeError, SizeError


def random_codes(count, dimension, bits, seed=0):
    """Odd integers."""
    return 2 * np.random.default_rng(seed).integers(0, 2**bits, (count, dimension)) - 2**bits + 1


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_planes_by_hand():
    codes = BitPlanes.of([[3, -1, 1, -3, 3, 3, 3, 3, -1]], bits=2)
    # Largest power first: + - + - + + + + - and what is left, + + - - + + + + +.
    assert codes.planes.tolist() == [[[0b10101111, 0b00000000], [0b11001111, 0b10000000]]]
    assert (codes.bits, codes.nbytes, len(codes)) == (2, 4, 1)


def test_a_cosine_by_hand():
    first, second = BitPlanes.of([[3, -1]], bits=2), BitPlanes.of([[1, 1]], bits=2)
    assert first.scores(second)[0, 0] == pytest.approx((3 - 1) / (10 * 2) ** 0.5)


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("dimension", [5, 64, 200, 384])
def test_scores_equal_float_dot_products_of_the_vectors(bits, dimension):
    rows = random_codes(9, dimension, bits)
    vectors = unit(rows.astype(np.float64))
    codes = BitPlanes.of(vectors, bits=bits)
    assert codes.values() == pytest.approx(vectors, abs=1e-6)
    assert codes.scores(codes) == pytest.approx(vectors @ vectors.T, abs=1e-12)
    assert codes.nbytes == 9 * bits * -(-dimension // 8)


def test_products_equal_the_paper_formula():
    rows = random_codes(4, 11, 3)
    codes = BitPlanes.of(rows, bits=3)
    for row, found in zip(rows.tolist(), bit_planes._products(codes.planes[0], codes.planes, 11), strict=True):
        expected = reference.symmetric_distance(rows[0].tolist(), row, 3)
        assert found == expected == sum(x * y for x, y in zip(rows[0].tolist(), row, strict=True))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_length_and_precision_do_not_matter(dtype):
    rows = random_codes(20, 384, 4)
    found = BitPlanes.of((0.7 * unit(rows)).astype(dtype), bits=4)
    assert np.array_equal(found.planes, BitPlanes.of(rows, bits=4).planes)


def test_a_code_whose_smallest_coordinate_is_not_one_is_found_up_to_its_length():
    rows = np.array([[3, -5, 7], [3, -3, 3]])
    assert BitPlanes.of(unit(rows), bits=3).values() == pytest.approx(unit(rows), abs=1e-6)


@pytest.mark.parametrize("bits", [1, 2])
@pytest.mark.parametrize("k", [1, 3, 100])
def test_search_is_a_full_sort_in_which_equal_ones_keep_their_order(monkeypatch, bits, k):
    documents, queries = random_codes(40, 6, bits), random_codes(5, 6, bits, seed=1)
    monkeypatch.setattr(bit_planes, "_ROWS", 7)
    scores, rows = BitPlanes.of(documents, bits=bits).search(BitPlanes.of(queries, bits=bits), k=k)
    exact = BitPlanes.of(documents, bits=bits).scores(BitPlanes.of(queries, bits=bits))
    for row, found, cosines in zip(exact.tolist(), rows.tolist(), scores.tolist(), strict=True):
        assert found == sorted(range(40), key=lambda place: (-row[place], place))[:k]
        assert cosines == [row[place] for place in found]


def test_float_queries_are_compared_without_rounding():
    documents, queries = random_codes(30, 10, 2), np.random.default_rng(2).normal(size=(4, 10))
    scores, rows = BitPlanes.of(documents, bits=2).search(queries, k=5)
    exact = unit(queries) @ unit(documents).T
    assert np.array_equal(rows, np.argsort(-exact, axis=1)[:, :5])
    assert scores == pytest.approx(np.take_along_axis(exact, rows, axis=1), abs=1e-6)


def test_an_empty_index_finds_nothing():
    index, queries = BitPlanes.of(np.zeros((0, 6)), bits=2), BitPlanes.of(random_codes(3, 6, 2), bits=2)
    assert [part.shape for part in index.search(queries, k=2)] == [(3, 0), (3, 0)]
    assert [part.shape for part in queries.search(index, k=2)] == [(0, 2), (0, 2)]


@pytest.mark.parametrize("vector", [[0.3, 0.5], [1, 5], [0, 1], [np.nan, 1], [np.inf, 1]])
def test_a_vector_that_is_no_code_is_refused(vector):
    with pytest.raises(InputError, match="odd integers up to 3 times one number, and row 1 is none"):
        BitPlanes.of([[1, 3], vector], bits=2)


@pytest.mark.parametrize("bits", [0, 9, 2.0, True])
def test_bits_that_cannot_be_are_refused(bits):
    with pytest.raises(SizeError, match="bits must be an integer from 1 to 8, got"):
        BitPlanes.of([[1.0, 3.0]], bits=bits)


def test_planes_that_do_not_fit_are_refused():
    with pytest.raises(ShapeError, match=r"must be uint8 of shape \(N, 1 to 8, 2\), got uint8 of shape \(1, 2, 1\)"):
        BitPlanes(np.zeros((1, 2, 1), dtype=np.uint8), 9)
    with pytest.raises(ShapeError, match="Planes of 0 coordinates must be uint8"):
        BitPlanes(np.zeros((1, 2, 0), dtype=np.uint8), 0)
    with pytest.raises(ShapeError, match="must be uint8 .* got int64"):
        BitPlanes(np.zeros((1, 2, 2), dtype=np.int64), 9)
    with pytest.raises(ShapeError, match="of 9 coordinates the last 7 bits must be zero, and some are set"):
        BitPlanes(np.full((1, 2, 2), 255, dtype=np.uint8), 9)
    with pytest.raises(ShapeError, match=r"needs vectors of shape \(N, m\), got \(3,\)"):
        BitPlanes.of([1, 1, 1], bits=1)


def test_queries_of_another_kind_are_refused():
    codes = BitPlanes.of(random_codes(3, 8, 2), bits=2)
    with pytest.raises(ShapeError, match="must have 2 bits of 8 coordinates like these codes, got 1 of 8"):
        codes.search(BitPlanes.of(random_codes(1, 8, 1), bits=1), k=1)
    with pytest.raises(ShapeError, match=r"must have the shape \(Q, 8\) of these codes, got \(1, 7\)"):
        codes.search(np.zeros((1, 7)), k=1)
    with pytest.raises(SizeError, match="k must be a positive integer, got 0"):
        codes.search(codes, k=0)
    with pytest.raises(InputError, match="Float queries must be finite, and some hold NaN or infinity"):
        codes.search(np.full((1, 8), np.nan), k=1)
