import pytest

from st_plugins.card_sections import write_section
from st_plugins.errors import InputError


def test_a_section_is_added_replaced_and_taken_away(tmp_path):
    card = tmp_path / "README.md"
    card.write_text("# Mine\n")
    write_section(tmp_path, "a", "one\n")
    write_section(tmp_path, "b", "two")
    assert card.read_text() == (
        "# Mine\n\n<!-- start of a -->\none\n<!-- end of a -->\n\n<!-- start of b -->\ntwo\n<!-- end of b -->\n"
    )
    write_section(tmp_path, "a", "other")
    assert "<!-- start of a -->\nother\n<!-- end of a -->\n\n<!-- start of b -->" in card.read_text()
    write_section(tmp_path, "a", "")
    assert "other" not in card.read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]


def test_there_must_be_a_card(tmp_path):
    with pytest.raises(InputError, match=r"must hold README.md, the model card, but .* does not. Save the model there"):
        write_section(tmp_path, "a", "one")
