import sys

import pytest

from st_plugins.errors import MissingExtraError
from st_plugins.evaluation.grid import GridPoint
from st_plugins.evaluation.pictures import draw_frontier, draw_grid

SQUARE = [GridPoint(layer, layer, dim, 0.1 * layer + 0.001 * dim, layer / 4) for layer in (1, 2, 4) for dim in (8, 16)]
CROSSED = [GridPoint(query, layer, 16, 0.1 * query, query / 4) for query in (1, 4) for layer in (2, 4)]


@pytest.mark.parametrize("draw", [draw_grid, draw_frontier])
@pytest.mark.parametrize("points", [SQUARE, CROSSED], ids=["square", "crossed"])
def test_a_picture_is_written_whole(tmp_path, draw, points):
    draw(points, tmp_path / "picture.png", title="A title")
    assert [file.name for file in tmp_path.iterdir()] == ["picture.png"]
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("draw", [draw_grid, draw_frontier])
def test_without_matplotlib_it_says_what_to_install(tmp_path, draw, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r"'matplotlib'.* pip install 'st-plugins\[plot\]'"):
        draw(SQUARE, tmp_path / "picture.png")
    assert not list(tmp_path.iterdir())
