import pytest

from st_plugins.errors import InputError, NonFiniteError
from st_plugins.located_errors import encode_located


def refusing(*bad, error=NonFiniteError):
    """An encoder that refuses some texts, and counts how many it was given."""

    def encode(texts):
        encode.seen += len(texts)
        refused = sorted(set(texts) & set(bad))
        if refused:
            raise error(f"row {texts.index(refused[0])}")
        return [text.upper() for text in texts]

    encode.seen = 0
    return encode


def test_nothing_is_done_twice_if_nothing_fails():
    encode = refusing()
    assert encode_located(encode, ("a", "b")) == ["A", "B"]
    assert encode.seen == 2


@pytest.mark.parametrize("count", [1, 2, 3, 7, 64])
def test_the_first_text_at_fault_is_found_wherever_it_is(count):
    texts = [str(number) for number in range(count)]
    for position in range(count):
        encode = refusing(str(position), texts[-1])
        with pytest.raises(NonFiniteError, match=rf"^The text at position {position} of {count} cannot .*\. row 0$"):
            encode_located(encode, texts)
        assert encode.seen <= 2 * count + 1


def test_the_kind_of_the_error_is_kept_and_others_pass():
    with pytest.raises(InputError, match="position 1 of 2") as caught:
        encode_located(refusing("b", error=InputError), ["a", "b"])
    assert type(caught.value) is InputError
    with pytest.raises(KeyError, match="row 0"):
        encode_located(refusing("b", error=KeyError), ["b"])


def test_what_only_a_whole_batch_does_is_told_as_it_came():
    def encode(texts):
        if len(texts) > 1:
            raise NonFiniteError("too many at once")
        return texts

    with pytest.raises(NonFiniteError, match="^too many at once$"):
        encode_located(encode, ["a", "b", "c"])
