from langchain_core.documents import Document

from langchain_st_plugins.document_copies import copied, with_id, with_score


def test_a_copy_shares_no_metadata():
    document = Document("a cat", id="7", metadata={"page": 1})
    for copy in (copied(document), with_id(document)):
        assert copy == document
        copy.metadata["page"] = 2
    assert document.metadata == {"page": 1}


def test_ids_are_made_up_where_there_are_none():
    document = Document("a cat")
    ids = {with_id(document).id for _ in range(10)}
    assert len(ids) == 10
    assert document.id is None


def test_a_score_is_put_into_a_copy_where_there_is_one_and_a_key():
    document = Document("a cat", metadata={"page": 1})
    assert with_score(document, 0.0, "cosine").metadata == {"page": 1, "cosine": 0.0}
    for copy in (with_score(document, None, "cosine"), with_score(document, 0.5, None)):
        assert copy == document
        copy.metadata["page"] = 2
    assert document.metadata == {"page": 1}
