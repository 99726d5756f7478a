import json

import pytest
from sentence_transformers.sentence_transformer.evaluation import EmbeddingSimilarityEvaluator

import st_plugins
from st_plugins.commands.program import main

PAIRS = "sentence1,sentence2,score\nthe cat,a cat,1.0\nthe cat,a dog,0.5\nthe red tree,it,0.0\nslow,fast,0.2\n"


@pytest.fixture
def pairs(tmp_path):
    (tmp_path / "pairs.csv").write_text(PAIRS)
    return str(tmp_path / "pairs.csv")


def test_the_figures_are_those_of_the_evaluator(folder, pairs, capsys):
    assert main(["grid", str(folder / "model"), "--pairs", pairs, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert sorted(found["scores"]) == [f"layer{layer}_dim{dim}" for layer in (2, 3, 4) for dim in (16, 8)]
    rows = [line.split(",") for line in PAIRS.splitlines()[1:]]
    first, second, scores = zip(*rows, strict=True)
    expected = EmbeddingSimilarityEvaluator(list(first), list(second), [float(s) for s in scores], write_csv=False)
    model = st_plugins.load(folder / "model", device="cpu")
    assert found["scores"]["layer4_dim16"] == pytest.approx(expected(model)["spearman_cosine"])
    assert found["primary"] == "layer4_dim16"


def test_the_table_and_the_picture(folder, pairs, capsys):
    picture = folder / "grid.png"
    arguments = ["--layer", "1", "--layer", "4", "--dim", "8", "--picture", str(picture)]
    assert main(["grid", str(folder / "model"), "--pairs", pairs, *arguments]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == ["spearman_cosine, in percent", "", "layer     dim 8"]
    assert [line[:8] for line in lines[-2:]] == ["layer 1:", "layer 4:"]
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_exactly_one_set_is_asked_for(folder, pairs, capsys):
    model = str(folder / "model")
    assert main(["grid", model]) == 1
    assert "Exactly one of --pairs and --retrieval must be given, got neither." in capsys.readouterr().err
    assert main(["grid", model, "--pairs", pairs, "--retrieval", "x"]) == 1
    assert "got both" in capsys.readouterr().err
