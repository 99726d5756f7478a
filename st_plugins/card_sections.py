"""Sections of a model card that the host's template has no place for. What they say is decided elsewhere."""

import re
from pathlib import Path

from st_plugins.errors import InputError
from st_plugins.whole_writes import whole_file


def write_section(folder: str | Path, name: str, text: str) -> None:
    """Put a section into the model card of a folder, or in place of the section of that name.

    sentence-transformers writes the card anew in every save: call this after ``save_pretrained``. All else in the card
    stays as it is.

    Args:
        folder: Of a saved model.
        name: Marks where the section begins and ends, as comments that are not shown.
        text: Markdown; "" takes the section away.

    Raises:
        InputError: If the folder has no ``README.md``.

    Example:
        >>> st_plugins.load("minilm-elastic").save_pretrained("noted")
        >>> write_section("noted", "notes", "## Notes")
        >>> Path("noted/README.md").read_text().splitlines()[-1]
        '<!-- end of notes -->'
    """
    card = Path(folder) / "README.md"
    if not card.is_file():
        raise InputError(
            f"The folder must hold README.md, the model card, but {folder} does not. Save the model there first: "
            "model.save_pretrained(folder)."
        )
    start, end = f"<!-- start of {name} -->", f"<!-- end of {name} -->"
    section = f"{start}\n{text.strip()}\n{end}\n" if text else ""
    content = card.read_text(encoding="utf-8")
    before, *after = re.split(f"{re.escape(start)}.*?{re.escape(end)}\n?", content, maxsplit=1, flags=re.DOTALL)
    if not after and section:
        before = before.rstrip("\n") + "\n\n"
    with whole_file(card) as unfinished:
        unfinished.write_text(before + section + "".join(after), encoding="utf-8")
