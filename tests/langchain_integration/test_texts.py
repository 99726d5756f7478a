import pytest
from langchain_core.documents import Document

from langchain_st_plugins.texts import check_ids, check_texts
from st_plugins.errors import InputError


@pytest.mark.parametrize("texts", [[], ["a"], ("a", " b "), ["\u200ba"]])
def test_lists_of_texts_pass(texts):
    assert check_texts(texts) is None


@pytest.mark.parametrize(
    ("texts", "error", "message"),
    [
        ("one text", TypeError, r"texts must be a list of str, got str. Write \[text\]"),
        (b"bytes", TypeError, "texts must be a list of str, got bytes"),
        ({"a"}, TypeError, "texts must be a list of str, got set"),
        (["a", None], TypeError, "the one at position 1 is NoneType"),
        (["a", "b", " \n\t"], InputError, "the one at position 2 is blank. Leave it out"),
        ([""], InputError, "the one at position 0 is blank"),
    ],
)
def test_anything_else_is_refused_by_position(texts, error, message):
    with pytest.raises(error, match=message):
        check_texts(texts)


def test_ids_come_once_and_may_be_missing():
    assert check_ids([Document("a"), Document("b"), Document("c", id="1")]) is None
    with pytest.raises(ValueError, match=r"the one at position 1, '1', came before\. Give that document another id"):
        check_ids([Document("a", id="1"), Document("b", id="1")])
