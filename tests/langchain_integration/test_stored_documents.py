import numpy as np
import pytest
from langchain_core.documents import Document

from langchain_st_plugins.stored_documents import StoredDocuments, write_documents
from st_plugins.errors import ManifestError

DOCUMENTS = [
    Document("two\nlines", id="1", metadata={"page": 1, "tags": ["a", None, 0.5]}),
    Document("東京 é \u2028", id="2", metadata={"nested": {"deep": True}}),
    Document("x" * 5000, id="3"),
]


@pytest.fixture
def file(tmp_path):
    return tmp_path / "documents.jsonl"


def test_documents_come_back_as_they_were(file):
    stored = StoredDocuments(file, write_documents(file, DOCUMENTS))
    assert [stored[row] for row in (2, 0, 1)] == [DOCUMENTS[row] for row in (2, 0, 1)]
    assert stored[1:] == DOCUMENTS[1:]
    assert list(stored) == stored.loaded() == DOCUMENTS
    assert (len(stored), stored[2]) == (3, DOCUMENTS[2])


def test_one_document_is_read_without_the_others(file):
    ends = write_documents(file, DOCUMENTS)
    content = file.read_bytes()
    file.write_bytes(b"?" * ends[0] + content[ends[0] :])
    stored = StoredDocuments(file, ends)
    assert stored[1] == DOCUMENTS[1]
    with pytest.raises(ManifestError, match=r"A stored document is damaged: b'\?\?.*Build the index again"):
        _ = stored[0]


def test_no_documents_are_an_empty_file(file):
    assert list(StoredDocuments(file, write_documents(file, []))) == []


def test_a_file_of_another_length_is_refused(file):
    ends = write_documents(file, DOCUMENTS)
    with file.open("ab") as lines:
        lines.write(b"more")
    with pytest.raises(ManifestError, match=rf"must have {ends[-1]} bytes, it has {ends[-1] + 4}\. Build"):
        StoredDocuments(file, ends)


@pytest.mark.parametrize("value", [np.float32(1), float("nan"), object()])
def test_what_json_cannot_hold_is_refused_by_name(file, value):
    with pytest.raises(TypeError, match=r"must be what JSON can hold, but 'b' is not .* Put a str or a number"):
        write_documents(file, [Document("a", id="a"), Document("b", id="b", metadata={"x": value})])
