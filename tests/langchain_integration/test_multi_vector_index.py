from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from langchain_core.documents import Document

from langchain_st_plugins.multi_vector_index import MultiVectorIndex
from st_plugins.errors import IndexMismatchError, InputError, ShapeError
from toy_encoder import ToyTokenEncoder

pytest.importorskip("torch")  # without it there is no search; the rest of this package needs none

from st_plugins.modules import FixedDimensionalEncoder
from st_plugins.multi_vector import MultiVectorSearch

ALL = {"candidates": 100, "carving_threshold": None}


@pytest.fixture
def index(texts):
    index = MultiVectorIndex(ToyTokenEncoder())
    index.add([Document(text, id=str(row), metadata={"n": row}) for row, text in enumerate(texts)])
    return index


def contents(found):
    return [document.page_content for document, _ in found]


def test_it_finds_what_maxsim_finds(index, texts):
    query, found = "a cat on money", index.find("a cat on money", k=6, **ALL)
    encoder = ToyTokenEncoder()
    tokens = encoder.encode_query([query], show_progress_bar=False)[0]
    documents = encoder.encode_document(texts, show_progress_bar=False)
    scores = np.array([sum(max(q @ p for p in document) for q in tokens) for document in documents])
    assert contents(found) == [texts[row] for row in np.argsort(-scores)]
    assert [score for _, score in found] == pytest.approx(sorted(scores, reverse=True), abs=1e-5)


def test_documents_in_batches_or_one_after_another_are_the_same(index, texts):
    other = MultiVectorIndex(index.encoder)
    assert other.find("a cat", k=1, **ALL) == []
    assert len(other.add([Document(texts[0])])) == 1
    assert other.add(map(Document, texts[1:]), ids=list("abcde"), batch_size=2) == list("abcde")
    assert [len(batch) for _, batch, _ in index.encoder.calls[2:]] == [1, 2, 2, 1]
    assert other.add([]) == []
    assert repr(other) == "MultiVectorIndex(6 documents, encoder=ToyTokenEncoder)"
    assert contents(other.find("a cat", k=6, **ALL)) == contents(index.find("a cat", k=6, **ALL))


def test_what_is_stored_is_a_copy_and_what_is_found_too(index):
    document = Document("zebras run", metadata={"n": 7})
    index.add([document])
    document.metadata["n"] = 8
    index.find("zebras run", k=1, **ALL)[0][0].metadata["n"] = 9
    found, score = index.find("zebras run", k=1, **ALL)[0]
    assert (found.page_content, found.metadata, len(found.id)) == ("zebras run", {"n": 7}, 36)
    assert 1.8 < score < 2


def test_a_search_of_ones_own_decides_what_is_ranked(texts):
    class Third:
        def add(self, vectors):
            self.width = vectors.shape[1]

        def search(self, vectors, k):
            return np.zeros((len(vectors), 1)), np.full((len(vectors), 1), 2)

    third = Third()
    index = MultiVectorIndex(
        ToyTokenEncoder(), search=MultiVectorSearch(FixedDimensionalEncoder(32, k_sim=2), index=third)
    )
    index.add(map(Document, texts))
    assert third.width == 20 * 4 * 16
    assert contents(index.find("a cat", k=3, **ALL)) == [texts[2]]


def test_threads_may_search_and_add(index, texts):
    expected = index.find("a cat", k=6, **ALL)

    def work(number):
        if number % 3 == 0:
            index.add([Document(f"far away {number}", id=f"far-{number}")])
        return index.find("a cat", k=2, **ALL)

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(work, range(30)))
    for some in found:
        assert [document.id for document, _ in some] == [document.id for document, _ in expected[:2]]
        assert [score for _, score in some] == pytest.approx([score for _, score in expected[:2]], abs=1e-6)
    assert len(index) == len(texts) + 10
    assert contents(index.find("far away 27", k=1, **ALL)) == ["far away 27"]


def test_two_threads_cannot_add_one_id(index):
    def add(_):
        try:
            return index.add([Document("twice", id="twice")])
        except ValueError as error:
            return str(error)

    with ThreadPoolExecutor(4) as pool:
        outcomes = list(pool.map(add, range(4)))
    assert outcomes.count(["twice"]) == 1
    assert sum("Documents cannot be replaced" in outcome for outcome in outcomes) == 3
    assert len(index) == 7


def test_what_cannot_be_added_is_refused_before_anything_is_embedded(index):
    calls = len(index.encoder.calls)
    with pytest.raises(ValueError, match="cannot be replaced, but the id at position 1, '3', is there. Leave the"):
        index.add([Document("new"), Document("old", id="3")])
    with pytest.raises(ValueError, match="position 1, 'x', came before"):
        index.add([Document("new", id="x"), Document("new", id="x")])
    with pytest.raises(InputError, match="position 0 is blank"):
        index.add([Document(" ")])
    with pytest.raises(InputError, match="position 0 is blank"):
        index.find(" ", k=1, **ALL)
    with pytest.raises(TypeError, match="position 0 is str"):
        index.add(["a text"])
    assert len(index.encoder.calls) == calls
    assert len(index) == 6


def test_encoders_and_searches_that_do_not_fit_are_refused(index, encoder):
    with pytest.raises(ValueError, match="but str has no encode_query and no encode_document. Pass a MultiVectorEncod"):
        MultiVectorIndex("a folder")
    full = MultiVectorSearch(FixedDimensionalEncoder(4))
    full.add([np.eye(4)])
    with pytest.raises(IndexMismatchError, match="search must be empty, for its rows are the documents; it holds 1"):
        MultiVectorIndex(index.encoder, search=full)
    with pytest.raises(ShapeError, match=r"must be one array of shape \(tokens, 32\) for each text, got \(32,\)"):
        MultiVectorIndex(encoder).add([Document("one vector for a text")])


def test_an_encoder_that_loses_a_text_is_found_out(index, monkeypatch):
    whole = index.encoder.encode_document
    monkeypatch.setattr(index.encoder, "encode_document", lambda texts, **options: whole(texts, **options)[1:])
    with pytest.raises(ShapeError, match="must return one array per text, got 1 for 2 texts"):
        index.add([Document("one"), Document("two")])
    assert len(index) == 6


@pytest.mark.parametrize("size", [0, -1])
def test_batches_hold_at_least_one_document(index, size):
    with pytest.raises(ValueError, match=f"batch_size must be an integer of at least 1, got {size}"):
        index.add([Document("new")], batch_size=size)
    assert len(index) == 6
