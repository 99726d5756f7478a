"""export_onnx: what it accepts gives torch's vectors, in a folder that others can read."""

import copy
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, Transformer
from transformers import ConvBertConfig, ConvBertModel

import st_plugins
from export_cases import assert_same_vectors, contents, read_json
from st_plugins.errors import ExportError
from st_plugins.exits import Certificate, ExitPolicy, Saturation, encode_with_exits
from st_plugins_export import OnnxEncoder, check_parity, export_onnx
from st_plugins_export.graph import OPSETS
from st_plugins_export.precisions import PRECISIONS

WIDTH, DEPTH = 32, 3
FILES = {
    "1_Pooling/config.json",
    "config.json",
    "config_sentence_transformers.json",
    "manifest.json",
    "modules.json",
    "onnx/model.onnx",
    "onnx/model_L2_D16.onnx",
    "report.json",
    "sentence_bert_config.json",
    "serving/README.md",
    "serving/mlserver/model-settings.json",
    "serving/mlserver/runtime.py",
    "serving/opensearch/make_zip.py",
    "serving/opensearch/register.json",
    "serving/text_embedder.py",
    "serving/triton/embedding/1/model.py",
    "serving/triton/embedding/config.pbtxt",
    "serving/triton_ensemble/embed/1/README.md",
    "serving/triton_ensemble/embed/config.pbtxt",
    "serving/triton_ensemble/embedding/1/README.md",
    "serving/triton_ensemble/embedding/config.pbtxt",
    "serving/triton_ensemble/tokenize/1/model.py",
    "serving/triton_ensemble/tokenize/config.pbtxt",
    "serving/vespa/services.xml",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
}


def test_dense_layers_and_normalization_are_in_the_graph(build, texts, tmp_path):
    model = build(behind=[Dense(WIDTH, 12), Normalize()], layers=1)
    export_onnx(model, tmp_path / "out", layout="tokens", show_progress=False)
    assert_same_vectors(model, tmp_path / "out", texts)
    assert (tmp_path / "out" / "2_Dense" / "model.safetensors").is_file()


def test_truncation_is_in_the_graph(build, texts, tmp_path):
    model = build(behind=[Normalize()], layers=1)
    model.truncate_dim = 8
    export_onnx(model, tmp_path / "out", show_progress=False)
    assert_same_vectors(model, tmp_path / "out", texts)
    assert OnnxEncoder(tmp_path / "out").get_embedding_dimension() == 8
    assert read_json(tmp_path / "out" / "config_sentence_transformers.json")["truncate_dim"] == 8


def test_a_model_without_token_types_gets_a_graph_without_them(build, texts, tmp_path):
    model = build(family="distilbert", layers=1)
    export_onnx(model, tmp_path / "out", show_progress=False)
    graph = onnx.load(tmp_path / "out" / "onnx" / "model.onnx").graph
    assert [tensor.name for tensor in graph.input] == ["input_ids", "attention_mask"]
    assert_same_vectors(model, tmp_path / "out", texts)


def test_sizes_of_an_elastic_model_give_its_vectors(elastic, exported, texts):
    assert_same_vectors(elastic, exported, texts)
    assert_same_vectors(elastic, exported, texts, layer=2, truncate_dim=16)


def test_the_graph_declares_names_types_and_widths(exported):
    model = onnx.load(exported / "onnx" / "model_L2_D16.onnx")

    def signature(tensors):
        kinds = [(tensor.name, tensor.type.tensor_type) for tensor in tensors]
        return [(name, t.elem_type, [d.dim_param or d.dim_value for d in t.shape.dim]) for name, t in kinds]

    integer, real = onnx.TensorProto.INT64, onnx.TensorProto.FLOAT
    names = ["input_ids", "token_type_ids", "attention_mask"]
    assert signature(model.graph.input) == [(name, integer, ["batch", "sequence"]) for name in names]
    assert signature(model.graph.output) == [
        ("last_hidden_state", real, ["batch", "sequence", 16]),
        ("sentence_embedding", real, ["batch", 16]),
    ]
    assert [opset.version for opset in model.opset_import] == [17]


def test_the_folder_holds_what_onnx_servers_read(elastic, exported):
    assert set(contents(exported)) == FILES
    assert read_json(exported / "config.json")["architectures"] == ["BertModel"]
    assert read_json(exported / "sentence_bert_config.json") == {"max_seq_length": 24, "do_lower_case": False}
    settings = read_json(exported / "config_sentence_transformers.json")
    assert settings.pop("__version__").keys() == {"sentence_transformers", "transformers", "pytorch"}
    assert settings == {"prompts": elastic.prompts, "default_prompt_name": None, "similarity_fn_name": "cosine"}
    assert read_json(exported / "special_tokens_map.json")["pad_token"] == "[PAD]"
    types = [entry["type"] for entry in read_json(exported / "modules.json")]
    assert types == [f"sentence_transformers.models.{name}" for name in ("Transformer", "Pooling", "Normalize")]


def test_the_manifest_knows_sizes_prompts_and_expected_vectors(elastic, exported):
    manifest = read_json(exported / "manifest.json")
    facts = [(size["layer"], size["dim"], size["is_full"], size["trained_dims"]) for size in manifest["sizes"]]
    assert facts == [(DEPTH, WIDTH, True, [16]), (2, 16, False, [8])]
    assert manifest["sizes"][0]["fingerprint"] == st_plugins.fingerprint(elastic)
    assert manifest["sizes"][1]["fingerprint"] == st_plugins.fingerprint(elastic, layer=2, dim=16)
    assert manifest["prompts"] == elastic.prompts
    texts = [probe["text"] for probe in manifest["probes"]]
    expected = [probe["embedding"] for probe in manifest["probes"]]
    np.testing.assert_allclose(OnnxEncoder(exported).encode(texts), expected, atol=1e-5, rtol=0)


def test_exits_add_their_graphs_and_their_entries(leaving, exported_exits):
    added = {f"onnx/model_{name}.onnx" for name in ("exit_gate", "exit_saturation", "layer_per_text")}
    assert set(contents(exported_exits)) == FILES - {"onnx/model_L2_D16.onnx"} | added
    gate, saturation, told = read_json(exported_exits / "manifest.json")["exits"]
    assert gate["fingerprint"] == st_plugins.fingerprint(leaving, exit="gate")
    assert saturation["fingerprint"] == st_plugins.fingerprint(leaving, exit="saturation") != gate["fingerprint"]
    assert gate["policy"] == leaving[0].exit_policies["gate"].as_dict()
    assert (told["name"], told["policy"], told["layers"]) == (None, None, [1, 2, 3])


@pytest.fixture(scope="module")
def packed(leaving, tmp_path_factory):
    """Folder and report of a policy with a certificate, packed as asked. Read only."""
    model = copy.deepcopy(leaving)
    certificate = Certificate("cosine", 0.1, 0.1, 50, "betting", 0.01, 0.02, 2.0, (0.3, 0.4, 0.3), "d", "f")
    model[0].add_exit_policy(replace(model[0].exit_policies["gate"], certificate=certificate))
    folder = tmp_path_factory.mktemp("packed") / "export"
    return folder, export_onnx(model, folder, exits=["gate"], packed=True, show_progress=False)


def test_a_certificate_travels_with_its_policy(packed):
    folder, report = packed
    assert [(found.name, found.layers) for found in report.exits] == [("gate", (1, 2, 3))]
    assert 0 < report.exits[0].max_difference <= 1e-5
    assert read_json(folder / "manifest.json")["exits"][0]["policy"]["certificate"]["alpha"] == 0.1


def test_the_model_is_left_as_it_is(build, texts, tmp_path):
    model = st_plugins.elastic(build()).train()
    vectors = model.eval().encode(texts)
    model.train()
    tokenizer, attention = model.tokenizer.backend_tokenizer.to_str(), model[0].auto_model.config._attn_implementation
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    export_onnx(model, tmp_path / "out", sizes=[(1, 8)], show_progress=False)
    assert model.training
    assert all(module.training for module in model.modules())
    assert model[0].auto_model.config._attn_implementation == attention
    assert model.tokenizer.backend_tokenizer.to_str() == tokenizer
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())
    np.testing.assert_array_equal(model.encode(texts), vectors)


@pytest.mark.slow
@pytest.mark.parametrize("opset", OPSETS)
def test_every_opset_gives_the_vectors_of_torch(leaving, texts, tmp_path, opset):
    options = {"exits": ["gate"], "precisions": list(PRECISIONS), "show_progress": False}
    report = export_onnx(leaving, tmp_path / "out", opset=opset, **options)
    graph = onnx.load(tmp_path / "out" / "onnx" / "model_exit_gate.onnx")
    assert graph.opset_import[0].version == read_json(tmp_path / "out" / "manifest.json")["opset"] == opset
    assert report.max_difference <= 1e-5
    assert_same_vectors(leaving, tmp_path / "out", texts, exit="gate")


@pytest.mark.slow
def test_int8_is_fitted_to_the_texts_that_are_given(plain, tmp_path):
    options = {"precisions": ["int8"], "min_cosine": {"int8": 0.9}, "show_progress": False}
    for name, texts in (("cats", ["cats sleep"]), ("word", ["word " * 20]), ("again", iter(["cats sleep"]))):
        export_onnx(plain, tmp_path / name, calibration_texts=texts, **options)
    files = (tmp_path / name / "onnx" / "model_quantized.onnx" for name in ("cats", "word", "again"))
    cats, word, again = (file.read_bytes() for file in files)
    assert cats == again != word


def test_graphs_are_packed_padded_or_refused_as_asked(leaving, packed, tmp_path):
    padded = tmp_path / "out"
    report = export_onnx(leaving, padded, exits=["gate"], packed=False, show_progress=False)
    for (folder, found), reason in ((packed, ""), ((padded, report), "it was asked for")):
        assert {graph.padded_because for graph in (*found.sizes, *found.exits)} == {reason}
        graph = onnx.load(folder / "onnx" / "model.onnx").graph
        assert ("GatherND" in {node.op_type for node in graph.node}) == (not reason)
        manifest = read_json(folder / "manifest.json")
        assert {entry.get("padded_because", "") for entry in (*manifest["sizes"], *manifest["exits"])} == {reason}
        assert set(read_json(folder / "report.json")["graphs"][0]) >= {"padded_because"}


def convbert(folder, save_tokenizer):
    """A convolution over tokens reads the padding beside them."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 80, "embedding_size": 32, "hidden_size": 32, "num_hidden_layers": 2}
    config = ConvBertConfig(**sizes, num_attention_heads=4, intermediate_size=48, max_position_embeddings=64)
    ConvBertModel(config).save_pretrained(folder)
    save_tokenizer(folder)
    return SentenceTransformer(modules=[Transformer(str(folder)), Pooling(32, "mean")], device="cpu").eval()


def test_a_network_that_reads_padding_stays_padded_or_is_refused(tmp_path, save_tokenizer):
    model = convbert(tmp_path / "model", save_tokenizer)
    with pytest.raises(
        ExportError, match=r"model\.onnx must compute real tokens only, .* reads padding\. Use packed='auto'"
    ):
        export_onnx(model, tmp_path / "out", packed=True, show_progress=False)
    assert not (tmp_path / "out").exists()
    report = export_onnx(model, tmp_path / "out", show_progress=False)
    assert "off: the network reads padding" in report.sizes[0].padded_because
    assert f"onnx/model.onnx: padding is computed too, as {report.sizes[0].padded_because}" in str(report)
    assert check_parity(model, tmp_path / "out").sizes[0].padded_because == report.sizes[0].padded_because


@pytest.fixture(scope="module")
def exported_plain(plain, tmp_path_factory):
    """The plain model in a folder that was there, and empty. Read only."""
    folder = tmp_path_factory.mktemp("exported_plain")
    export_onnx(plain, folder, show_progress=False)
    return folder


def test_baked_and_plain_models_get_the_same_graph(exported_plain, exported):
    sizes = [OnnxEncoder(folder)._manifest.full.nodes for folder in (exported, exported_plain)]
    assert sizes[0] == sizes[1]  # a view keeps more than one configuration: each must say eager attention


def test_an_earlier_export_is_replaced(elastic, damaged):
    export_onnx(elastic, damaged, show_progress=False)
    assert set(contents(damaged)) == FILES - {"onnx/model_L2_D16.onnx"}
    assert list(damaged.parent.glob(".damaged*")) == []


def test_an_empty_target_is_used(exported_plain):
    assert set(contents(exported_plain)) == FILES - {"onnx/model_L2_D16.onnx"}


def test_the_full_size_and_repeated_sizes_are_written_once(elastic, tmp_path):
    report = export_onnx(elastic, tmp_path / "out", sizes=[(1, 8), (DEPTH, WIDTH), (1, 8)], show_progress=False)
    assert [(size.layer, size.dim) for size in report.sizes] == [(DEPTH, WIDTH), (1, 8)]


@pytest.mark.parametrize("layout", ["portable", "tokens"])
def test_the_onnx_backend_of_sentence_transformers_opens_the_folder(build, texts, tmp_path, layout):
    pytest.importorskip("optimum.onnxruntime", reason="only installable with sentence-transformers 5.7")
    model = build(pooling="cls", behind=[Dense(WIDTH, 12), Normalize()])
    export_onnx(model, tmp_path / "out", layout=layout, show_progress=False)
    options = {"file_name": "onnx/model.onnx", "provider": "CPUExecutionProvider", "export": False}
    opened = SentenceTransformer(str(tmp_path / "out"), backend="onnx", model_kwargs=options, device="cpu")
    np.testing.assert_allclose(opened.encode(texts), model.encode(texts), atol=1e-5, rtol=0)


@pytest.mark.slow
def test_minilm_leaves_as_in_torch(minilm, tmp_path, texts):
    model = copy.deepcopy(minilm)
    model[0].add_sizes([(layer, 384) for layer in (1, 2, 3, 4, 5)])
    model[0].add_exit_policy(ExitPolicy("mine", Saturation(), 0.9, (1, 2, 3, 4, 5, 6)))
    report = export_onnx(model, tmp_path / "out", exits=["mine"], layer_per_text=True, show_progress=False)
    assert max(found.max_difference for found in report.exits) <= 1e-6
    many = [*texts, *(f"text number {number}" for number in range(40))]
    vectors, layers = encode_with_exits(model, many, exit="mine")
    found = OnnxEncoder(tmp_path / "out").encode_with_exits(many, exit="mine")
    assert len(set(layers.tolist())) > 1
    np.testing.assert_array_equal(found[1], layers)
    np.testing.assert_allclose(found[0], vectors, atol=1e-6, rtol=0)


@pytest.mark.slow
def test_minilm_gives_the_vectors_of_torch(minilm, minilm_export, texts):
    folder, report = minilm_export
    assert [(size.layer, size.dim) for size in report.sizes] == [(6, 384), (3, 128)]
    assert report.max_difference <= 1e-6
    assert_same_vectors(minilm, folder, texts)
    assert_same_vectors(minilm, folder, texts, layer=3, truncate_dim=128)
