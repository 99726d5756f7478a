"""What a report says about the texts that were tried."""

from st_plugins_export.tried import Tried, joined


def test_one_text_is_one():
    assert str(Tried(1, 3, 3, {}, {1: 3}, ("",))) == "1 text of 3 to 3 tokens; in batches of 1 x 3"


def test_kinds_batches_and_prompts_are_named():
    tried = Tried(99, 2, 24, {"empty": 2, "full length": 24}, {32: 24, 1: 24, 3: 9}, ("", "find: ", "name of "))
    assert str(tried) == (
        "99 texts of 2 to 24 tokens: empty (2), full length (24); in batches of 1 x 24, 3 x 9, 32 x 24; 2 prompts"
    )


def test_routes_are_joined():
    one = Tried(5, 2, 9, {"empty": 2, "one word": 3}, {1: 9}, ("",))
    other = Tried(4, 1, 8, {"one word": 1, "sentence": 8}, {1: 8, 32: 5}, ("", "find: "))
    assert joined([one, other]) == Tried(
        9, 1, 9, {"empty": 2, "one word": 3, "sentence": 8}, {1: 9, 32: 5}, ("", "find: ")
    )
