import json

import pytest

from st_plugins.commands.program import main
from st_plugins_export import OnnxEncoder


@pytest.mark.slow
def test_options_reach_the_export_and_it_can_be_checked(folder, capsys):
    model, out = str(folder / "model"), str(folder / "out")
    options = ["--size", "2x8", "--external-data", "yes", "--packed", "no", "--precision", "fp16", "--opset", "18"]
    assert main(["export", model, out, *options]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"{out}: 2 sizes in fp32, fp16, largest difference from torch in fp32 ")
    assert "padding is computed too, as it was asked for" in shown
    assert OnnxEncoder(out).sizes == ((4, 16), (2, 8))
    manifest = folder / "out" / "manifest.json"
    before = manifest.read_bytes()
    assert json.loads(before)["opset"] == 18
    assert main(["export", model, out, "--check", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["graphs"]) == 4
    assert main(["export", model, out, "--check", "--tolerance", "0"]) == 1
    assert "must give" in capsys.readouterr().err
    assert manifest.read_bytes() == before


@pytest.mark.slow
def test_exits_go_along(folder, capsys):
    model, out = str(folder / "model"), str(folder / "out")
    queries = str(folder / "queries.txt")
    assert main(["calibrate", model, "--texts", queries, "--name", "near", "--alpha", "0.5"]) == 0
    assert main(["export", model, out, "--exit", "near", "--layer-per-text"]) == 0
    assert "onnx/model_layer_per_text.onnx" in capsys.readouterr().out
    assert OnnxEncoder(out).exits == ("near",)
    assert main(["export", model, out, "--exit", "fast"]) == 1
    assert "error: exit must be the name of a policy" in capsys.readouterr().err


def test_a_refusal_is_one_line_and_writes_nothing(folder, capsys):
    model, out = str(folder / "model"), str(folder / "out")
    for arguments, message in (
        ([model, out, "--size", "9x16"], "error: layer must be an integer from 1 to 4"),
        ([model, out, "--precision", "fp8"], "error: A precision must be one of"),
        ([str(folder), out], "modules.json"),
    ):
        assert main(["export", *arguments]) == 1
        shown = capsys.readouterr()
        assert shown.out == ""
        assert message in shown.err.splitlines()[-1]
    assert not (folder / "out").exists()
