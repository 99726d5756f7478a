import json

import numpy as np
from sentence_transformers import SentenceTransformer

import st_plugins
from st_plugins.commands.program import main


def test_the_folder_opens_without_us_and_gives_the_size(folder, capsys):
    out = folder / "baked"
    assert main(["bake", str(folder / "model"), str(out), "--size", "2x8"]) == 0
    assert capsys.readouterr().out == f"{out}: 2 layers, 8 dimensions, opens with SentenceTransformer({str(out)!r})\n"
    wanted = st_plugins.load(folder / "model").encode("the cat", layer=2, truncate_dim=8)
    assert np.abs(SentenceTransformer(str(out), device="cpu").encode("the cat") - wanted).max() < 1e-6
    assert main(["bake", str(folder / "model"), str(out), "--size", "2x8"]) == 1
    assert "must be a new folder" in capsys.readouterr().err


def test_json(folder, capsys):
    assert main(["bake", str(folder / "model"), str(folder / "baked"), "--size", "4x16", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["layer"], found["dim"]) == (4, 16)
    assert found["fingerprint"] == st_plugins.fingerprint(SentenceTransformer(str(folder / "baked"), device="cpu"))
