import sys

import pytest

from st_plugins.errors import ExitError, MissingExtraError
from st_plugins.exit_criteria import Saturation
from st_plugins.exit_policies import Certificate, ExitPolicy
from st_plugins.exits.curves import ExitCurves
from st_plugins.exits.pictures import draw_curves, draw_exit_rates

PROOF = Certificate("cosine", 0.1, 0.1, 100, "betting", 0.1, 0.05, 3.0, (0.0, 0.5, 0.5), "", "")
POLICY = ExitPolicy("mine", Saturation(), 0.9, (1, 2, 4), None, PROOF)
CURVES = ExitCurves("cosine", ((2.0, 0.2), (4.0, 0.0)), ((1.0, 0.4), (4.0, 0.0)), ((1.0, 0.4), (4.0, 0.0)))
DRAWINGS = {
    "rates": lambda file: draw_exit_rates(POLICY, file, title="A title"),
    "curves": lambda file: draw_curves(CURVES, file, title="A title"),
    "curves and policy": lambda file: draw_curves(CURVES, file, policy=POLICY),
}


@pytest.mark.parametrize("draw", DRAWINGS.values(), ids=DRAWINGS)
def test_a_picture_is_written_whole(tmp_path, draw):
    draw(tmp_path / "picture.png")
    assert [file.name for file in tmp_path.iterdir()] == ["picture.png"]
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_a_policy_changes_the_picture(tmp_path):
    draw_curves(CURVES, tmp_path / "without.png")
    draw_curves(CURVES, tmp_path / "with.png", policy=POLICY)
    assert (tmp_path / "without.png").read_bytes() != (tmp_path / "with.png").read_bytes()


@pytest.mark.parametrize("draw", DRAWINGS.values(), ids=DRAWINGS)
def test_without_matplotlib_it_says_what_to_install(tmp_path, draw, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r"'matplotlib'.* pip install 'st-plugins\[plot\]'"):
        draw(tmp_path / "picture.png")
    assert not list(tmp_path.iterdir())


def test_policies_without_the_right_proof_are_not_drawn(tmp_path):
    bare = ExitPolicy("bare", Saturation(), 0.9, (1, 2, 4))
    with pytest.raises(ExitError, match="policy 'bare' has none. Calibrate it"):
        draw_exit_rates(bare, tmp_path / "picture.png")
    with pytest.raises(ExitError, match="certificate for 'cosine', 'bare' has none"):
        draw_curves(CURVES, tmp_path / "picture.png", policy=bare)
    other = ExitCurves("overlap@10", CURVES.dynamic, CURVES.static, CURVES.oracle)
    with pytest.raises(ExitError, match="certificate for 'overlap@10', 'mine' has one for 'cosine'"):
        draw_curves(other, tmp_path / "picture.png", policy=POLICY)
