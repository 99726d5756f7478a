"""One graph, every text at a layer of its own: right, independent of the batch, and no more work than needed."""

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import transformers
from onnx import numpy_helper
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

import reference
import st_plugins
from st_plugins.exits import ExitPolicy, Gate, encode_with_exits
from st_plugins_export import export_onnx
from st_plugins_export.exit_graph import write_exit_graph
from st_plugins_export.graph import plain_copy

NAMES = ["last_hidden_state", "sentence_embedding", "exit_layer"]
SIZES = {"vocab_size": 80, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 48}
DECODER = {**SIZES, "num_key_value_heads": 1, "head_dim": 16, "max_position_embeddings": 64, "pad_token_id": 0}
# Configuration class, its options, pooling.
FAMILIES = {
    "XLM-R": ("XLMRobertaConfig", {**SIZES, "pad_token_id": 0, "max_position_embeddings": 66}, "mean"),
    "MPNet": ("MPNetConfig", {**SIZES, "max_position_embeddings": 66}, "mean"),
    "DeBERTa": ("DebertaV2Config", {**SIZES, "relative_attention": True, "pos_att_type": ["p2c", "c2p"]}, "mean"),
    "ModernBERT": (
        "ModernBertConfig",
        {**SIZES, "pad_token_id": 0, "local_attention": 8, "global_attn_every_n_layers": 2},
        "cls",
    ),
    "Qwen3": ("Qwen3Config", DECODER, "lasttoken"),
    "Gemma3": ("Gemma3TextConfig", {**DECODER, "sliding_window": 8}, "mean"),
}
IS_OLD = int(transformers.__version__.split(".")[0]) < 5
HEADS = ((0.0, 0.0, 0.0, -0.4, 1.2), (0.2, 0.0, 0.1, -0.2, 0.5))


def features(model, texts):
    inputs = model.preprocess(texts)
    return {name: inputs[name].numpy() for name in ("input_ids", "attention_mask", "token_type_ids") if name in inputs}


def session(model, **options):
    content = model if isinstance(model, bytes) else model.read_bytes()
    return onnxruntime.InferenceSession(content, **options)


@pytest.fixture
def many(texts):
    return [*texts, "cats of the weather", "b c d", "the weather", "sleep cats sleep cats sleep"]


@pytest.mark.parametrize("policy", ["gate", "saturation"])
def test_texts_leave_where_they_do_in_torch_with_the_same_vectors(leaving, exported_exits, many, policy):
    found = session(exported_exits / "onnx" / f"model_exit_{policy}.onnx").run(NAMES, features(leaving, many))
    with torch.no_grad():
        expected = leaving({**leaving.preprocess(many)}, exit=policy)
    assert len(set(found[2].tolist())) > 1
    np.testing.assert_array_equal(found[2], expected["exit_layer"])
    np.testing.assert_allclose(found[1], expected["sentence_embedding"], atol=1e-6)
    np.testing.assert_array_equal(found[0], np.broadcast_to(found[1][:, None], found[0].shape))


def test_with_their_tokens_texts_leave_with_the_states_of_torch(leaving, many, tmp_path):
    policy = leaving[0].exit_policies["saturation"]
    write_exit_graph(plain_copy(leaving), tmp_path / "graph.onnx", policy.layers, policy, "tokens")
    (found,) = session(tmp_path / "graph.onnx").run(NAMES[:1], features(leaving, many))
    with torch.no_grad():
        expected = leaving({**leaving.preprocess(many)}, exit="saturation")
    np.testing.assert_allclose(found, expected["token_embeddings"], atol=1e-5)


def test_every_exit_is_taken(leaving, exported_exits, many):
    found = session(exported_exits / "onnx" / "model_exit_gate.onnx").run(NAMES, features(leaving, many))
    assert set(found[2].tolist()) == {1, 2, 3}


def test_saturation_leaves_where_slow_loops_say(leaving, exported_exits, many):
    graph = session(exported_exits / "onnx" / "model_exit_saturation.onnx")
    for text in many:
        with torch.no_grad():
            inputs = leaving.preprocess([text])
            states = leaving[0].model(
                **{name: inputs[name] for name in inputs if "_" in name}, output_hidden_states=True
            )
        layers = [layer[0].tolist() for layer in states.hidden_states[1:]]
        expected = reference.saturation_exit(layers, [1, 2, 3], 0.882)
        assert graph.run(["exit_layer"], features(leaving, [text]))[0].tolist() == [expected]


def test_the_batch_changes_nothing(leaving, exported_exits, many):
    graph = session(exported_exits / "onnx" / "model_exit_gate.onnx")
    together = graph.run(NAMES[1:], features(leaving, many))
    for row, text in enumerate(many):
        alone = graph.run(NAMES[1:], features(leaving, [text]))
        np.testing.assert_allclose(alone[0][0], together[0][row], atol=1e-6)
        assert alone[1][0] == together[1][row]


def test_a_row_of_padding_alone_disturbs_nobody(leaving, exported_exits, many):
    inputs = features(leaving, many)
    expected = session(exported_exits / "onnx" / "model_exit_gate.onnx").run(NAMES, inputs)
    padded = {name: np.concatenate([array, np.zeros_like(array[:1])]) for name, array in inputs.items()}
    found = session(exported_exits / "onnx" / "model_exit_gate.onnx").run(NAMES, padded)
    np.testing.assert_array_equal(found[2][:-1], expected[2])
    np.testing.assert_allclose(found[0][:-1], expected[0], atol=1e-6)
    assert np.isfinite(found[1]).all()
    for layer in (1, 2, 3):  # nothing but padding goes on
        told = {**padded, "layer": np.array([1] * len(many) + [layer])}
        found = session(exported_exits / "onnx" / "model_layer_per_text.onnx").run(NAMES, told)
        np.testing.assert_allclose(found[1][:-1], leaving.encode(many, layer=1), atol=1e-6)


def test_a_graph_that_is_told_gives_the_fixed_layers(leaving, exported_exits, many):
    graph = session(exported_exits / "onnx" / "model_layer_per_text.onnx")
    layers = np.resize([3, 1, 2], len(many))
    found = graph.run(NAMES[1:], {**features(leaving, many), "layer": layers})
    np.testing.assert_array_equal(found[1], layers)
    for row, text in enumerate(many):
        np.testing.assert_allclose(found[0][row], leaving.encode(text, layer=int(layers[row])), atol=1e-6)
    for layer in (1, 2, 3):  # all at once
        found = graph.run(NAMES[1:], {**features(leaving, many), "layer": np.full(len(many), layer)})
        np.testing.assert_allclose(found[0], leaving.encode(many, layer=layer), atol=1e-6)


def test_a_layer_without_an_exit_means_the_next_one_that_has(leaving, tmp_path, many):
    write_exit_graph(plain_copy(leaving), tmp_path / "graph.onnx", (1, 3), None)
    told = {**features(leaving, many[:4]), "layer": np.array([0, 1, 2, 9])}
    assert session(tmp_path / "graph.onnx").run(["exit_layer"], told)[0].tolist() == [1, 1, 3, 3]


def test_a_policy_may_end_below_the_full_depth(leaving, tmp_path, many):
    policy = ExitPolicy("early", Gate((1,), HEADS[:1]), 0.26, (1, 2))
    write_exit_graph(plain_copy(leaving), tmp_path / "graph.onnx", (1, 2), policy)
    found = session(tmp_path / "graph.onnx").run(NAMES[1:], features(leaving, many))
    assert set(found[1].tolist()) == {1, 2}
    for row, text in enumerate(many):
        np.testing.assert_allclose(found[0][row], leaving.encode(text, layer=int(found[1][row])), atol=1e-6)


def test_blocks_run_only_on_the_tokens_that_are_left_and_attention_on_their_rows_and_columns(
    leaving, exported_exits, tmp_path
):
    options = onnxruntime.SessionOptions()
    options.enable_profiling = True
    options.profile_file_prefix = str(tmp_path / "profile")
    graph = session(exported_exits / "onnx" / "model_layer_per_text.onnx", sess_options=options)
    rows = ["the weather is lovely today, is it not", "b c d", "cats", "a"]  # 24, 5, 3 and 3 tokens
    graph.run(NAMES, {**features(leaving, rows), "layer": np.array([1, 3, 2, 1])})
    graph.run(NAMES, {**features(leaving, rows), "layer": np.array([1, 1, 1, 1])})
    events = json.loads(Path(graph.end_profiling()).read_text())
    shapes, attention = {1: [], 2: [], 3: []}, {1: [], 2: [], 3: []}
    for event in events:
        name, arguments = event["name"], event.get("args", {})
        layer = next((layer for layer in shapes if f"layer_{layer}/" in name), None)
        if "intermediate" in name and "MatMul" in name and name.endswith("kernel_time"):
            shapes[layer].append(arguments["output_type_shape"][0]["float"])
        if "Softmax" in name and name.endswith("kernel_time"):
            attention[layer].append(arguments["output_type_shape"][0]["float"])
    assert shapes == {1: [[35, 48], [35, 48]], 2: [[8, 48]], 3: [[5, 48]]}
    assert attention == {1: [[4, 2, 24, 24]] * 2, 2: [[2, 2, 5, 5]], 3: [[1, 2, 5, 5]]}


def test_thresholds_are_initializers_that_can_be_edited(leaving, exported_exits, many):
    model = onnx.load(exported_exits / "onnx" / "model_exit_gate.onnx")
    thresholds = {weight.name: weight for weight in model.graph.initializer if weight.name.startswith("threshold")}
    assert set(thresholds) == {"threshold_of_layer_1", "threshold_of_layer_2"}
    assert all(numpy_helper.to_array(weight) == np.float32(0.26) for weight in thresholds.values())
    for first, second, expected in ((2.0, 2.0, {3}), (-1.0, 2.0, {1}), (2.0, -1.0, {2})):
        for name, value in (("threshold_of_layer_1", first), ("threshold_of_layer_2", second)):
            thresholds[name].CopyFrom(numpy_helper.from_array(np.array(value, np.float32), name))
        found = session(model.SerializeToString()).run(["exit_layer"], features(leaving, many))[0]
        assert set(found.tolist()) == expected


def test_saturation_has_no_threshold_where_nothing_can_leave(exported_exits):
    model = onnx.load(exported_exits / "onnx" / "model_exit_saturation.onnx")
    names = [weight.name for weight in model.graph.initializer if weight.name.startswith("threshold")]
    assert names == ["threshold_of_layer_2"]


def test_the_graph_declares_names_types_and_batches_and_no_operators_of_ours(exported_exits):
    model = onnx.load(exported_exits / "onnx" / "model_layer_per_text.onnx")

    def signature(tensors):
        kinds = [(tensor.name, tensor.type.tensor_type) for tensor in tensors]
        return [(name, t.elem_type, [d.dim_param or d.dim_value for d in t.shape.dim]) for name, t in kinds]

    integer, real = onnx.TensorProto.INT64, onnx.TensorProto.FLOAT
    names = ["input_ids", "token_type_ids", "attention_mask"]
    assert signature(model.graph.input) == [
        *((name, integer, ["batch", "sequence"]) for name in names),
        ("layer", integer, ["batch"]),
    ]
    assert signature(model.graph.output) == [
        ("last_hidden_state", real, ["batch", "sequence", 32]),
        ("sentence_embedding", real, ["batch", 32]),
        ("exit_layer", integer, ["batch"]),
    ]
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 17)]
    onnx.checker.check_model(model, full_check=True)


def test_weights_are_in_the_file_once(leaving, exported_exits):
    full = (exported_exits / "onnx" / "model.onnx").stat().st_size
    for name in ("exit_gate", "exit_saturation", "layer_per_text"):
        # Operators weigh something in a model this small: with a second copy of the weights it would be the double.
        assert (exported_exits / "onnx" / f"model_{name}.onnx").stat().st_size < 1.6 * full
    weights = sum(parameter.numel() for parameter in plain_copy(leaving).parameters())
    assert _numbers(onnx.load(exported_exits / "onnx" / "model_exit_gate.onnx").graph) <= weights + 100


def _tensors(graph):
    """The content of every weight of some size, branches included. Those of the tests are all different."""
    for weight in graph.initializer:
        if np.prod(weight.dims) >= 32:
            yield numpy_helper.to_array(weight).tobytes()
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _tensors(attribute.g)


def _numbers(graph):
    own = sum(int(np.prod(weight.dims)) for weight in graph.initializer)
    branches = (attribute.g for node in graph.node for attribute in node.attribute if attribute.HasField("g"))
    return own + sum(_numbers(branch) for branch in branches)


@pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")  # transformers 4 compiles parts of DeBERTa
@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_leaves_as_in_torch(tmp_path, save_tokenizer, many, family):
    if IS_OLD and family in ("Qwen3", "Gemma3"):
        pytest.skip("transformers 4 builds causal masks with vmap, which a trace cannot follow")
    config, options, pooling = FAMILIES[family]
    torch.manual_seed(0)
    network = transformers.AutoModel.from_config(getattr(transformers, config)(**options))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    network.save_pretrained(tmp_path / "model")
    side = "left" if pooling == "lasttoken" else "right"
    save_tokenizer(tmp_path / "model", padding_side=side, token_types=False)
    modules = [Transformer(str(tmp_path / "model")), Pooling(32, pooling), Normalize()]
    sizes = [(layer, 16) for layer in (1, 2, 3)]
    model = st_plugins.elastic(SentenceTransformer(modules=modules, device="cpu"), sizes=sizes)
    model[0].add_exit_policy(ExitPolicy("gate", Gate((1, 2), HEADS), 0.3, (1, 2, 3)))
    report = export_onnx(model, tmp_path / "out", exits=["gate"], layer_per_text=True, show_progress=False)
    assert report.max_difference <= 1e-5
    held = list(_tensors(onnx.load(tmp_path / "out" / "onnx" / "model_exit_gate.onnx").graph))
    assert len(set(held)) == len(held)  # what several stages use is there once
    found = session(tmp_path / "out" / "onnx" / "model_exit_gate.onnx").run(NAMES[1:], features(model, many))
    vectors, layers = encode_with_exits(model, many, exit="gate", batch_size=len(many))
    assert len(set(layers.tolist())) > 1
    np.testing.assert_array_equal(found[1], layers)
    np.testing.assert_allclose(found[0], vectors, atol=1e-5)
