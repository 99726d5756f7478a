import sys

import pytest

from st_plugins.errors import MissingExtraError
from st_plugins.figures import new_figure, save_figure


def test_a_picture_replaces_the_earlier_one_when_it_is_complete(tmp_path):
    figure, axis = new_figure(2.0, 1.0)
    axis.plot([0, 1], [0, 1])
    save_figure(figure, tmp_path / "picture.png")
    before = (tmp_path / "picture.png").read_bytes()
    assert before.startswith(b"\x89PNG")
    # Width and height in pixels stand at bytes 16 to 24 of a PNG.
    assert [int.from_bytes(before[at : at + 4], "big") for at in (16, 20)] == [260, 130]

    class Broken:
        def savefig(self, file, **options):
            file.write_bytes(b"half a picture")
            raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space left"):
        save_figure(Broken(), tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes() == before


def test_without_matplotlib_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r"'matplotlib'.* pip install 'st-plugins\[plot\]'"):
        new_figure(1.0, 1.0)
