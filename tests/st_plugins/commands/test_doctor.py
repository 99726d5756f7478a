import json

import pytest

from st_plugins.commands import doctor
from st_plugins.commands.program import main


def test_every_extra_is_looked_at(capsys):
    assert main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    extras = {one["extra"] for one in found["packages"]}
    assert {"", "onnx", "langchain", "hnsw", "train", "plot", "bulk", "ray", "lora", "mteb"} <= extras
    always = {one["package"] for one in found["packages"] if not one["extra"]}
    assert {"sentence-transformers", "numpy", "typer"} <= always
    assert "onnx" not in always
    assert {"datasets", "accelerate"} <= {one["package"] for one in found["packages"] if one["extra"] == "train"}
    assert {"python", "torch", "cores"} <= found["machine"].keys()


@pytest.mark.parametrize(("installed", "state", "code"), [(None, "missing", 0), ("0.1", "0.1  does not fit", 1)])
def test_what_is_missing_comes_with_the_command(monkeypatch, capsys, installed, state, code):
    monkeypatch.setattr(doctor, "hardware", dict)
    monkeypatch.setattr(
        doctor, "packages", lambda: iter([doctor.Found("plot", "matplotlib", ">=3.9", installed, False)])
    )
    assert main(["doctor"]) == code
    shown = capsys.readouterr().out.splitlines()
    assert shown[-3:] == ["[plot]", f"  matplotlib             >=3.9      {state}", '  pip install "st-plugins[plot]"']
