import pytest
import typer

from st_plugins.commands.option_types import parse_size
from st_plugins.commands.program import main


def test_a_size_is_layer_x_dim():
    assert parse_size("3x128") == (3, 128)


@pytest.mark.parametrize("text", ["3-128", "3", "x", "-1x8", "3x", "3 x 8", "²x8"])
def test_anything_else_is_refused(text):
    with pytest.raises(typer.BadParameter, match="a size must look like 3x128, layer x dim, got "):
        parse_size(text)


def test_a_command_refuses_it_before_it_loads_anything(tmp_path, capsys):
    assert main(["bake", "no-such-model", str(tmp_path / "out"), "--size", "3-128"]) == 2
    assert "a size must look like 3x128" in capsys.readouterr().err
