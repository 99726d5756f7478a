import pytest
from langchain_core.documents import Document

from langchain_st_plugins.filters import matching

DOCUMENTS = [Document("a", metadata={"n": 1, "kind": "x"}), Document("b", metadata={"n": 2}), Document("c")]


@pytest.mark.parametrize(
    ("filter", "rows"),
    [
        ({"n": 1}, [0]),
        ({"n": 1, "kind": "y"}, []),
        ({"kind": None}, []),
        ({}, [0, 1, 2]),
        (lambda document: document.page_content > "a", [1, 2]),
    ],
)
def test_documents_that_pass(filter, rows):
    assert matching(DOCUMENTS, filter).tolist() == rows


def test_anything_else_is_refused():
    with pytest.raises(TypeError, match="a function of a Document or a dict of metadata, got list"):
        matching(DOCUMENTS, ["n"])
