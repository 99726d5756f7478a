"""``python -m st_plugins_export``: one report on success, one line on refusal."""

import pytest

from st_plugins_export import OnnxEncoder
from st_plugins_export.__main__ import main


@pytest.fixture(scope="module")
def saved(elastic, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    elastic.save_pretrained(str(folder), create_model_card=False)
    return folder


def test_sizes_are_exported_and_reported(saved, tmp_path, capsys):
    arguments = ["--size", "2x16", "--size", "1x8", "--external-data", "yes"]
    assert main([str(saved), str(tmp_path / "out"), *arguments]) == 0
    assert (tmp_path / "out" / "onnx" / "model.onnx_data").is_file()
    assert capsys.readouterr().out.startswith(f"{tmp_path / 'out'}: 3 sizes, largest difference from torch ")
    assert OnnxEncoder(tmp_path / "out").sizes == ((3, 32), (2, 16), (1, 8))


def test_exits_are_exported(leaving, tmp_path, capsys):
    leaving.save_pretrained(str(tmp_path / "model"), create_model_card=False)
    arguments = [str(tmp_path / "model"), str(tmp_path / "out"), "--exit", "gate", "--layer-per-text"]
    assert main(arguments) == 0
    assert "onnx/model_layer_per_text.onnx" in capsys.readouterr().out
    assert OnnxEncoder(tmp_path / "out").exits == ("gate",)
    assert main([*arguments, "--exit", "fast"]) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: exit must be the name of a policy")


def test_precisions_and_opset_are_passed_on_and_an_export_can_be_checked(saved, tmp_path, capsys):
    arguments = [str(saved), str(tmp_path / "out")]
    assert main([*arguments, "--precision", "fp16", "--opset", "18", "--packed", "no"]) == 0
    printed = capsys.readouterr().out
    assert "onnx/model.onnx, onnx/model_fp16.onnx: padding is computed too, as it was asked for" in printed
    before = (tmp_path / "out" / "manifest.json").read_bytes()
    assert main([*arguments, "--check"]) == 0
    assert "onnx/model_fp16.onnx" in capsys.readouterr().out
    assert (tmp_path / "out" / "manifest.json").read_bytes() == before
    assert main([*arguments, "--check", "--tolerance", "0"]) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: onnx/model.onnx must give")
    assert main([*arguments, "--precision", "fp8"]) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: A precision must be one of")


def test_a_refusal_is_one_line(saved, tmp_path, capsys):
    assert main([str(saved), str(tmp_path / "out"), "--size", "9x16"]) == 1
    out, error = capsys.readouterr()
    assert out == ""
    assert error.splitlines()[-1].startswith("error: layer must be an integer from 1 to 3")
    assert not (tmp_path / "out").exists()


def test_a_folder_without_a_model_is_one_line(tmp_path, capsys):
    assert main([str(tmp_path), str(tmp_path / "out")]) == 1
    assert "modules.json" in capsys.readouterr().err


def test_a_size_that_cannot_be_read_is_explained(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["model", "folder", "--size", "3-128"])
    assert "a size looks like 3x128 (layer x dim), got '3-128'" in capsys.readouterr().err
