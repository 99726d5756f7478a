import json

import pytest

import st_plugins
from st_plugins.commands.calibrate import _overlap
from st_plugins.commands.program import main


def test_the_policy_goes_into_the_model_and_its_card(folder, capsys):
    model = str(folder / "model")
    arguments = ["calibrate", model, "--texts", str(folder / "queries.txt"), "--name", "near", "--alpha", "0.5"]
    assert main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{model}: policy 'near'"
    assert lines[1].startswith("cosine at most 0.5 with a probability of 0.9; ")
    policy = st_plugins.load(model)[0].exit_policies["near"]
    assert policy.certificate.n == 36
    assert "| `near` | cosine | at most 0.5, P >= 0.9 | 36 |" in (folder / "model" / "README.md").read_text()


def test_documents_make_it_a_risk_of_queries(folder, capsys):
    out = folder / "out"
    arguments = ["--texts", str(folder / "queries.txt"), "--name", "q", "--alpha", "0.9", "--json"]
    more = ["--documents", str(folder / "texts.txt"), "--nearest", "1", "--output", str(out)]
    assert main(["calibrate", str(folder / "model"), *arguments, *more]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["name"], found["certificate"]["risk"]) == ("q", "overlap@1")
    assert st_plugins.load(out)[0].exit_policies["q"].as_dict() == {
        name: found[name] for name in ("criterion", "threshold", "layers", "weights", "certificate")
    }
    assert not st_plugins.load(folder / "model")[0].exit_policies


def test_queries_get_the_prompt_that_encode_query_gives_them(plain):
    plain.prompts = {"query": "", "document": "", "general": "the red "}
    plain.default_prompt_name = "general"
    assert _overlap(plain, ["the cat", "a dog"], 1, False)[1] == ""
    del plain.prompts["query"]
    assert _overlap(plain, ["the cat", "a dog"], 1, False)[1] == "the red "


@pytest.mark.parametrize("alpha", ["0", "0.01"])
def test_a_refusal_changes_nothing(folder, alpha, capsys):
    before = (folder / "model" / "README.md").read_bytes()
    arguments = ["--texts", str(folder / "queries.txt"), "--name", "q", "--alpha", alpha]
    assert main(["calibrate", str(folder / "model"), *arguments]) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: ")
    assert (folder / "model" / "README.md").read_bytes() == before
