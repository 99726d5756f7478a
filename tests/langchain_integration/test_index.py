import numpy as np
import pytest
from langchain_core.documents import Document

from document_cases import documents, ids
from langchain_st_plugins.index import ElasticIndex
from st_plugins.errors import IndexMismatchError, InputError, ShapeError, SizeError


def cosines(vectors, query):
    """One by one, in float64."""
    d = len(query)
    return [
        float(np.dot(row[:d].astype(float), query) / np.linalg.norm(row[:d].astype(float)) / np.linalg.norm(query))
        for row in vectors
    ]


@pytest.mark.parametrize("dim", [1, 5, 24])
@pytest.mark.parametrize("k", [1, 7, 50, 99])
def test_search_equals_brute_force_at_every_prefix(index, vectors, dim, k):
    query = np.random.default_rng(1).standard_normal(dim)
    expected = cosines(vectors, query)
    found = index.search(query, k=k)
    assert len(found) == min(k, 50)
    assert ids(found) == [str(i) for i in np.argsort(-np.array(expected, dtype=np.float32), kind="stable")[:k]]
    for document, score in found:
        assert score == pytest.approx(expected[int(document.id)], abs=1e-6)


@pytest.mark.parametrize("k", [40, 70, 99])
def test_equal_documents_come_in_the_order_they_were_added(k):
    index = ElasticIndex(fingerprint="toy/1")
    index.add(documents(99), np.eye(3)[np.arange(99) % 3])
    expected = [str(i) for first in (2, 0, 1) for i in range(first, 99, 3)]
    assert ids(index.search(np.array([2, 1, 3]), k=k)) == expected[:k]


def test_scores_never_leave_the_range_of_a_cosine():
    vectors = np.random.default_rng(2).standard_normal((500, 3))
    index = ElasticIndex(fingerprint="toy/1")
    index.add(documents(500), vectors)
    assert all(index.search(vector, k=1)[0][1] <= 1 for vector in vectors)


@pytest.mark.parametrize("only", [{"even": False}, lambda document: not document.metadata["even"]])
def test_the_filter_is_applied_before_the_ranking(index, vectors, only):
    query = vectors[0]  # an even document is the best
    expected = cosines(vectors, query)
    odd = sorted(range(1, 50, 2), key=lambda i: -expected[i])
    assert ids(index.search(query, k=25, filter=only)) == [str(i) for i in odd]
    assert ids(index.search(query, k=3, filter=only)) == [str(i) for i in odd[:3]]


def test_a_filter_asks_for_every_value_and_may_leave_nothing(index, vectors):
    assert ids(index.search(vectors[0], k=9, filter={"even": True, "n": 4})) == ["4"]
    assert index.search(vectors[0], k=9, filter={"absent": None}) == []
    assert len(index.search(vectors[0], k=9, filter={})) == 9
    with pytest.raises(TypeError, match=r"filter must be a function of a Document or a dict of metadata, got str"):
        index.search(vectors[0], k=9, filter="even")


def test_an_empty_index_finds_nothing():
    index = ElasticIndex(fingerprint="toy/1")
    assert index.add([], np.zeros((0, 0))) == []
    assert index.search(np.ones(4), k=3) == []
    assert (len(index), index.width) == (0, None)


def test_additions_are_found_also_at_a_prefix_searched_before(index, vectors):
    query = np.ones(5)
    index.search(query, k=1)
    index.add([Document("new", id="new")], np.ones((1, 24)))
    assert ids(index.search(query, k=1)) == ["new"]
    assert len(index) == 51


def test_prefixes_do_not_pile_up(index):
    for dim in range(1, 24):
        index.search(np.ones(dim), k=1)
    assert list(index.state.prefixes) == [20, 21, 22, 23]


def test_a_document_without_direction_at_a_prefix_scores_zero():
    index = ElasticIndex(fingerprint="toy/1")
    index.add(documents(2), np.array([[0.0, 1.0], [-1.0, 1.0]]))
    assert index.search(np.array([1.0]), k=2)[0][1] == 0.0


def test_documents_without_an_id_get_one_and_originals_stay_apart(vectors):
    index = ElasticIndex(fingerprint="toy/1")
    original = Document("text", metadata={"page": 1})
    (added,) = index.add([original], vectors[:1])
    assert original.id is None
    original.metadata["page"] = 2
    found, _ = index.search(vectors[0], k=1)[0]
    assert (found.id, found.metadata) == (added, {"page": 1})


@pytest.mark.parametrize(
    ("added", "rows", "error", "message"),
    [
        ([Document("a")], np.ones((1, 23)), IndexMismatchError, r"holds vectors of width 24, got width 23\. Embed the"),
        ([Document("a")], np.ones((2, 24)), ShapeError, r"one vector, got 2 vectors for 1 documents"),
        ([Document("a")], np.ones(24), ShapeError, r"shape \(texts, width\), got \(24,\)"),
        ([Document("a")], np.full((1, 24), np.nan), InputError, r"position 0 holds NaN"),
        (
            [Document("a", id="x"), Document("b", id="x")],
            np.ones((2, 24)),
            ValueError,
            r"position 1, 'x', came before\. Give that",
        ),
    ],
)
def test_a_refused_addition_adds_nothing(index, added, rows, error, message):
    with pytest.raises(error, match=message):
        index.add(added, rows)
    assert len(index) == 50
    assert len(index.search(np.ones(24), k=99)) == 50


def test_an_index_for_one_dim_takes_no_other_even_while_empty():
    with pytest.raises(IndexMismatchError, match=r"holds vectors of width 8, got width 24"):
        ElasticIndex(fingerprint="toy/1", dim=8).add(documents(1), np.ones((1, 24)))


@pytest.mark.parametrize(
    ("query", "k", "error", "message"),
    [
        (np.ones(25), 1, SizeError, r"dim must be from 1 to 24, the width of the documents .* got a query of width 25"),
        (np.ones((1, 24)), 1, ShapeError, r"one vector \(d,\), got shape \(1, 24\)"),
        (np.ones(24), 0, ValueError, r"k must be an integer of at least 1, got 0"),
        (np.ones(24), 2.0, TypeError, r"k must be an integer of at least 1, got 2\.0"),
    ],
)
def test_bad_searches_are_refused(index, query, k, error, message):
    with pytest.raises(error, match=message):
        index.search(query, k=k)


def test_an_index_says_what_it_holds(index):
    assert repr(index) == "ElasticIndex(50 documents, layer=6, dim=None, width=24)"
    assert index.made == (6, None, None)


def test_a_document_of_the_same_id_takes_the_place_of_the_old_one(index, vectors):
    index.search(np.ones(5), k=1)  # so that there is a prefix
    before = index.state
    assert index.add([Document("new", id="7"), Document("more", id="50")], -vectors[[7, 8]]) == ["7", "50"]
    assert len(index) == 51
    assert [document.page_content for document in index.get(["7", "50", "absent", "8"])] == ["new", "more", "text 8"]
    for dim in (5, 24):
        assert ids(index.search(-vectors[7][:dim], k=1)) == ["7"]
    assert before.documents[7].page_content == "text 7"  # a search that runs meanwhile is not disturbed


def test_deleted_documents_are_found_no_more(index, vectors):
    index.search(np.ones(5), k=1)
    assert index.delete(["3", "absent", "40"]) == 2
    assert len(index) == 48
    assert index.get(["3", "4"])[0].id == "4"
    for dim in (5, 24):
        found = ids(index.search(vectors[3][:dim], k=99))
        assert len(found) == 48
        assert not {"3", "40"} & set(found)
    assert index.delete([]) == 0
    index.add(documents(50)[3:4], vectors[3:4])
    assert ids(index.search(vectors[3], k=1)) == ["3"]


def test_what_get_returns_may_be_changed(index):
    index.get(["0"])[0].metadata["n"] = "changed"
    assert index.get(["0"])[0].metadata["n"] == 0


@pytest.mark.parametrize("dim", [24, 12])
@pytest.mark.parametrize("only", [None, {"even": True}])
def test_a_funnel_ranks_in_full_what_the_first_coordinates_choose(index, vectors, dim, only):
    query = np.random.default_rng(3).standard_normal(dim)
    rows = [i for i in range(50) if only is None or i % 2 == 0]
    coarse, fine = cosines(vectors, query[:4]), cosines(vectors[:, :dim], query)
    short = sorted(rows, key=lambda i: -coarse[i])[:9]
    expected = sorted(short, key=lambda i: -fine[i])
    found = index.search(query, k=5, filter=only, shortlist_dim=4, fetch_k=9)
    assert ids(found) == [str(i) for i in expected[:5]]
    np.testing.assert_allclose([score for _, score in found], [fine[i] for i in expected[:5]], atol=1e-6)
    assert expected[:5] != sorted(rows, key=lambda i: -fine[i])[:5]  # at this fetch_k it does miss some


def test_a_funnel_is_exact_when_its_shortlist_is_long_or_as_wide_as_the_query(index):
    query = np.random.default_rng(3).standard_normal(24)
    exact = index.search(query, k=5)
    assert index.search(query, k=5, shortlist_dim=4, fetch_k=50) == exact
    assert index.search(query, k=5, shortlist_dim=24, fetch_k=9) == exact
    assert len(index.search(query, k=20, shortlist_dim=4, fetch_k=9)) == 20  # never shorter than k


def test_diverse_documents_are_the_hosts_choice_among_the_nearest(index, vectors):
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    query = unit[0]
    nearest = np.argsort(-(unit @ query))[:10]
    chosen = [0]
    while len(chosen) < 4:  # maximal marginal relevance, from its definition
        left = [i for i in range(10) if i not in chosen]
        chosen.append(
            max(
                left,
                key=lambda i: (
                    0.3 * unit[nearest[i]] @ query - 0.7 * max(unit[nearest[i]] @ unit[nearest[j]] for j in chosen)
                ),
            )
        )
    found = index.search_diverse(vectors[0], k=4, candidates=10, lambda_mult=0.3)
    assert [document.id for document in found] == [str(nearest[i]) for i in chosen]
    assert ElasticIndex(fingerprint="toy/1").search_diverse(np.ones(3), k=2, candidates=3, lambda_mult=0.5) == []


def test_one_id_is_not_taken_for_a_list_of_letters(index):
    for method in (index.delete, index.get):
        with pytest.raises(TypeError, match=r"ids must be a list of str, got '12'\. Write \['12'\]\."):
            method("12")
    assert len(index) == 50
