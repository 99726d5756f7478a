import json

import pytest

import st_plugins
from st_plugins.commands.inspect import facts_of
from st_plugins.commands.program import main
from st_plugins.errors import InputError
from st_plugins.exits import ExitPolicy, Saturation
from st_plugins_export import export_onnx


def test_an_elastic_model_with_policies(folder, capsys):
    model = st_plugins.load(folder / "model", device="cpu")
    model[0].add_exit_policy(ExitPolicy("mine", Saturation(), 0.98, (2, 3, 4)))
    model.save_pretrained(str(folder / "with-exits"))
    assert main(["inspect", str(folder / "with-exits")]) == 0
    shown = capsys.readouterr().out
    exits = "exits        mine: leaves at 2, 3, 4; nothing proved"
    identity = f"fingerprint  {st_plugins.fingerprint(model)}"
    for line in ("kind         elastic model", "sizes        2x8", exits, identity, "opens with   st_plugins.load("):
        assert line in shown
    queries = str(folder / "queries.txt")
    assert main(["calibrate", str(folder / "model"), "--texts", queries, "--name", "n", "--alpha", "0.5"]) == 0
    assert facts_of(folder / "model")["exits"][0].startswith(
        "n: leaves at 2, 3, 4; cosine at most 0.5 with a probability"
    )


def test_a_plain_model_opens_anywhere(plain, folder, capsys):
    plain.save_pretrained(str(folder / "plain"))
    assert main(["inspect", str(folder / "plain"), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["kind"], facts["modules"]) == ("plain model", ["Transformer", "Pooling", "Normalize"])
    assert facts["opens with"][0].startswith("SentenceTransformer(folder), and all else")
    assert "sizes" not in facts


def test_an_export(folder):
    model = st_plugins.load(folder / "model", device="cpu")
    export_onnx(model, folder / "onnx", sizes=[(2, 8)], show_progress=False)
    facts = facts_of(folder / "onnx")
    assert facts["kind"] == "ONNX export"
    assert facts["graphs"] == ["4x16 fp32: onnx/model.onnx", "2x8 fp32: onnx/model_L2_D8.onnx"]
    assert facts["fingerprint"] == st_plugins.fingerprint(model)


def test_a_store_and_vectors(folder):
    texts, model = str(folder / "texts.txt"), str(folder / "model")
    assert main(["index", texts, str(folder / "store"), "--model", model]) == 0
    assert main(["embed", texts, str(folder / "out"), "--model", model, "--layer", "2"]) == 0
    store, vectors = facts_of(folder / "store"), facts_of(folder / "out")
    assert (store["kind"], store["documents"], store["graph"]) == ("vector store", 2, "none")
    assert (vectors["rows"], vectors["made at"]) == ("3 rows, 1 without a vector, 0 cut", "layer 2")
    (folder / "out" / "_manifest.json").unlink()
    assert facts_of(folder / "out")["rows"] == "unfinished"


def test_anything_else_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"must hold a model \(modules.json\), an export or a store"):
        facts_of(tmp_path)


@pytest.mark.parametrize("content", ["[1]", "3", '{"format": "langchain_st_plugins index 1"}'])
def test_a_damaged_store_is_refused_by_name(tmp_path, content):
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(InputError, match="is damaged, its files lack .*Write it again"):
        facts_of(tmp_path)


def test_damaged_vectors_are_refused_by_name(tmp_path):
    (tmp_path / "_job.json").write_text("{}")
    with pytest.raises(InputError, match="is damaged, its files lack 'dim'. Write it again"):
        facts_of(tmp_path)
