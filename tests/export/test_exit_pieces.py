"""The pieces compute what torch does, and read nothing but what the graph around them has."""

import numpy as np
import pytest
import torch
import transformers
from onnx import TensorProto, helper
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

from st_plugins.errors import UnsupportedModelError
from st_plugins.exits import Gate, Saturation
from st_plugins.views import view
from st_plugins_export.exit_pieces import trace_score, trace_stages, trace_tail
from st_plugins_export.graph import plain_copy, traced_features

TYPES = {np.dtype("int64"): TensorProto.INT64, np.dtype("float32"): TensorProto.FLOAT}


def run(fragment, outputs, **inputs):
    """What a fragment computes, in onnxruntime."""
    ort = pytest.importorskip("onnxruntime")
    values = {name: np.asarray(value) for name, value in inputs.items() if name in fragment.inputs}
    graph = helper.make_graph(
        fragment.nodes,
        "piece",
        [helper.make_tensor_value_info(name, TYPES[array.dtype], array.shape) for name, array in values.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        list(fragment.weights.values()),
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return ort.InferenceSession(model.SerializeToString()).run(list(outputs), values)


def model_of(family, tmp_path, save_tokenizer, **options):
    torch.manual_seed(0)
    sizes = {"vocab_size": 80, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
    config = getattr(transformers, f"{family}Config")(**{**sizes, "intermediate_size": 48, **options})
    kind = transformers.T5EncoderModel if family == "T5" else transformers.AutoModel._model_mapping[type(config)]
    kind(config).save_pretrained(tmp_path / "model")
    save_tokenizer(tmp_path / "model", token_types=False)
    return SentenceTransformer(modules=[Transformer(str(tmp_path / "model")), Pooling(32)], device="cpu")


def assert_stages_give_the_layers(model, texts):
    copied = plain_copy(model)
    features = {name: copied.preprocess(texts)[name] for name in traced_features(copied)}
    stages = trace_stages(copied, (1, 3))
    given = {name: tensor.numpy() for name, tensor in features.items()}
    for layer, stage in zip((1, 3), stages, strict=True):
        outputs = [name for name in ("states", "raw") if name in stage.outputs]
        found = dict(zip(outputs, run(stage, outputs, **given), strict=True))
        with torch.no_grad():
            expected = view(copied[0].auto_model, layer)(**features)[0]
        kept = features["attention_mask"].bool().numpy()
        np.testing.assert_allclose(found["states"][kept], expected.numpy()[kept], atol=2e-5)
        given["hidden"] = found.get("raw", found["states"])
    return stages


def test_stages_of_bert_give_its_layers_and_the_second_holds_no_embeddings(build, texts):
    first, second = assert_stages_give_the_layers(build(), texts)
    assert first.inputs <= {"input_ids", "token_type_ids", "attention_mask"}
    assert "hidden" in second.inputs
    assert any(weight.dims == [80, 32] for weight in map(_as_lists, first.weights.values()))
    assert not any(weight.dims == [80, 32] for weight in map(_as_lists, second.weights.values()))
    assert "raw" not in first.outputs | second.outputs


def _as_lists(weight):
    return type("Weight", (), {"dims": list(weight.dims)})


def test_stages_with_a_final_norm_hand_on_what_is_before_it(tmp_path, save_tokenizer, texts):
    options = {"pad_token_id": 0, "local_attention": 8, "global_attn_every_n_layers": 2}
    first, _ = assert_stages_give_the_layers(model_of("ModernBert", tmp_path, save_tokenizer, **options), texts)
    assert {"raw", "states"} <= first.outputs


def test_blocks_that_read_what_the_first_computed_are_refused(tmp_path, save_tokenizer):
    options = {"d_model": 32, "d_kv": 16, "d_ff": 48, "num_layers": 3, "num_heads": 2, "pad_token_id": 0}
    model = plain_copy(model_of("T5", tmp_path, save_tokenizer, **options))
    with pytest.raises(UnsupportedModelError, match=r"T5EncoderModel cannot leave early in a graph: .* sizes="):
        trace_stages(model, (1, 3))


@pytest.mark.parametrize(
    "criterion", [Saturation(), Saturation(2), Gate((1, 2, 3), ((0.3, 0.1, 0.2, -0.1, 0.4),) * 3)], ids=repr
)
def test_a_score_is_that_of_the_criterion(criterion):
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(3, 5, 7, 16, generator=generator) + 1  # exits, rows, tokens, dimension
    mask = torch.tensor([[1] * count + [0] * (7 - count) for count in (7, 1, 3, 6, 2)])
    means = torch.stack([(x * mask[..., None]).sum(dim=1) / mask.sum(dim=1)[:, None] for x in states])  # (3, 5, 16)
    for exits in (1, 2, 3):
        fragment = trace_score(criterion, 16, exits)
        expected = criterion.score(means[:exits], mask.sum(dim=1))
        if not torch.isfinite(expected).any():
            assert "score" not in fragment.outputs
            continue
        earlier = means[: exits - 1].transpose(0, 1)
        found = run(fragment, ["pooled", "score"], states=states[exits - 1], attention_mask=mask, means=earlier)
        np.testing.assert_allclose(found[0], means[:exits].transpose(0, 1), atol=1e-6)
        np.testing.assert_allclose(found[1], expected, atol=1e-6)


def test_the_tail_pools_and_leaves_zeros_in_place_of_padding(plain, texts):
    copied = plain_copy(plain)
    features = {name: copied.preprocess(texts)[name] for name in traced_features(copied)}
    tokens = torch.randn(*features["attention_mask"].shape, 32)
    states, vectors = run(
        trace_tail(copied, "tokens"), ["last_hidden_state", "sentence_embedding"], **features, token_embeddings=tokens
    )
    mask = features["attention_mask"][..., None].numpy()
    np.testing.assert_array_equal(states, tokens.numpy() * mask)
    expected = (tokens.numpy() * mask).sum(axis=1) / mask.sum(axis=1)
    np.testing.assert_allclose(vectors, expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=1e-6)
