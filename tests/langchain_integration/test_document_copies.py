from langchain_core.documents import Document

from langchain_st_plugins.document_copies import copied, with_id


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
