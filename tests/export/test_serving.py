"""The files for servers: well-formed, with the names, widths, limits and prompts of the graph beside them."""

import hashlib
import json
import re
from dataclasses import replace
from xml.etree import ElementTree

import onnx
import pytest
from sentence_transformers.sentence_transformer.modules import Dense, Normalize

from st_plugins_export.layout import read_manifest
from st_plugins_export.serving import Served, describe, write_serving
from st_plugins_export.sidecars import write_sidecars

SERVED = Served(("input_ids", "attention_mask"), 12, 24, {}, "f" * 64, "mean", True)


@pytest.fixture
def serve(plain, tmp_path):
    """``serve(model_type=..., dim=..., ...)``: the folder ``serving`` of an export that is nothing else."""

    def write(model_type="bert", **facts):
        write_sidecars(plain, tmp_path)
        config = json.loads((tmp_path / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": model_type}))
        (tmp_path / "onnx").mkdir()
        (tmp_path / "onnx" / "model.onnx").write_bytes(b"a graph")
        write_serving(tmp_path, replace(SERVED, **facts))
        return tmp_path / "serving"

    return write


def component(folder):
    found = ElementTree.parse(folder / "vespa" / "services.xml").find("container/component")
    return {element.tag: element for element in found}


def register(folder):
    return json.loads((folder / "opensearch" / "register.json").read_text())


def blocks(text, name):
    """Names and dims of the tensors of a config.pbtxt."""
    inside = re.search(rf"^{name} \[(?: .* \]$|\n(?:  .*\n)+\]$)", text, re.MULTILINE)
    return re.findall(r'name: "(\w+)" data_type: (\w+) dims: \[ (-?\d+) \]', inside.group())


def test_triton_is_told_the_tensors_of_the_graph(exported):
    graph = onnx.load(exported / "onnx" / "model.onnx").graph
    tokens = [(tensor.name, "TYPE_INT64", "-1") for tensor in graph.input]
    width = str(graph.output[1].type.tensor_type.shape.dim[-1].dim_value)
    vectors, text = [("sentence_embedding", "TYPE_FP32", width)], [("text", "TYPE_STRING", "1")]
    expected = {
        "triton/embedding": (text, vectors),
        "triton_ensemble/embedding": (text, vectors),
        "triton_ensemble/tokenize": (text, tokens),
        "triton_ensemble/embed": (tokens, vectors),
    }
    for name, tensors in expected.items():
        config = (exported / "serving" / name / "config.pbtxt").read_text()
        assert config.startswith("# ")
        assert (blocks(config, "input"), blocks(config, "output")) == tensors
        assert f'name: "{name.rpartition("/")[-1]}"' in config
    ensemble = (exported / "serving" / "triton_ensemble" / "embedding" / "config.pbtxt").read_text()
    for kind in ("output_map", "input_map"):
        assert re.findall(rf'{kind} {{ key: "(\w+)" value: "\1" }}', ensemble).count("attention_mask") == 1


def test_mlserver_is_told_the_width(exported):
    settings = json.loads((exported / "serving" / "mlserver" / "model-settings.json").read_text())
    assert settings["outputs"] == [{"name": "sentence_embedding", "datatype": "FP32", "shape": [-1, 32]}]
    assert (exported / "serving" / "mlserver" / settings["parameters"]["uri"] / "tokenizer.json").is_file()


def test_vespa_takes_the_finished_vector(exported):
    elements = {name: element.text for name, element in component(exported / "serving").items()}
    assert elements["transformer-output"] == "sentence_embedding"
    assert (elements["pooling-strategy"], elements["normalize"], elements["max-tokens"]) == ("none", "false", "24")
    assert elements["transformer-token-type-ids"] == "token_type_ids"
    assert component(exported / "serving")["prepend"].find("query").text == "find:"


def test_servers_are_told_no_prompts_that_the_model_does_not_pool(serve, build):
    folder = serve(prompts={"query": "find: "}, pools_prompts=False)
    assert "prepend" not in component(folder)
    readme = (folder / "README.md").read_text()
    assert "`attention_mask` must be 2 at each token of the prompt" in readme
    assert "Vespa could prepend prompts, and would pool them" in readme
    facts = {"inputs": (), "max_seq_length": None, "fingerprint": ""}
    assert not describe(build(include_prompt=False), "portable", **facts).pools_prompts


def test_vespa_prepends_what_it_can_say(serve):
    folder = serve(prompts={"query": "a < b: ", "document": "passage:"}, max_seq_length=None)
    elements = component(folder)
    assert [(element.tag, element.text) for element in elements["prepend"]] == [("query", "a < b:")]
    assert elements["transformer-token-type-ids"].text is None  # the graph has none
    assert int(elements["max-tokens"].text) == 2**20
    assert "a space behind document, where this model has none" in (folder / "README.md").read_text()


def test_opensearch_is_told_how_the_zip_looks(exported, elastic):
    entries = register(exported / "serving")
    assert entries["model_config"]["embedding_dimension"] == 32
    assert (entries["model_config"]["pooling_mode"], entries["model_config"]["normalize_result"]) == ("mean", True)
    assert entries["version"] == read_manifest(exported).full.fingerprint[:12]
    assert json.loads(entries["model_config"]["all_config"])["model_type"] == "bert"


# OpenSearch feeds token types to models called bert or albert, and to no others.
TYPES = [
    ("bert", True, "bert"),
    ("albert", True, "albert"),
    ("electra", True, "bert"),
    ("mpnet", False, "mpnet"),
    ("bert", False, "bert without token types"),
]


@pytest.mark.parametrize(("model_type", "has_types", "expected"), TYPES)
def test_opensearch_gives_token_types_to_graphs_that_take_them(serve, model_type, has_types, expected):
    inputs = (*SERVED.inputs, "token_type_ids") if has_types else SERVED.inputs
    assert register(serve(model_type, inputs=inputs))["model_config"]["model_type"] == expected


def test_what_is_left_to_pool(build, plain):
    facts = {"inputs": SERVED.inputs, "max_seq_length": 24, "fingerprint": "f"}
    found = describe(plain, "portable", **facts)
    assert (found.pooling, found.has_unit_length, found.dim) == ("mean", True, 32)
    assert found.prompts == {"query": "find: ", "title": "name of "}
    assert describe(build(pooling="cls"), "tokens", **facts).pooling == "cls"
    assert describe(build(pooling="cls"), "portable", **facts).pooling == "mean"
    dense = build(behind=[Dense(32, 12), Normalize()])
    dense.truncate_dim = 8
    found = describe(dense, "tokens", **facts)
    assert (found.pooling, found.has_unit_length, found.dim) == (None, False, 8)


def test_tokens_that_need_more_than_a_pooling_are_left_alone(serve):
    folder = serve(pooling=None, has_unit_length=False)
    assert register(folder)["model_config"]["pooling_mode"] == "none"  # the second output, from OpenSearch 3.6 on
    assert "Binary" not in (folder / "vespa" / "services.xml").read_text()


def test_the_readme_says_what_is_served(exported, serve):
    text = (exported / "serving" / "README.md").read_text()
    assert "32 numbers of length 1" in text
    assert "cut after 24 tokens" in text
    assert "- `query`: `'find: '`" in text
    assert "$" not in text


def test_the_manifest_knows_the_files(exported):
    manifest = read_manifest(exported)
    for name in ("serving/README.md", "serving/triton/embedding/1/model.py", "serving/opensearch/register.json"):
        assert manifest.files[name] == hashlib.sha256((exported / name).read_bytes()).hexdigest()
