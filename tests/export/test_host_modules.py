"""Modules of sentence-transformers inside the graph: in every order that makes sense, padded on either side."""

from inspect import signature

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import (
    CNN,
    LSTM,
    BoW,
    Dense,
    Dropout,
    LayerNorm,
    Normalize,
    Pooling,
    WeightedLayerPooling,
    WordWeights,
)
from sentence_transformers.sparse_encoder.modules import SpladePooling

import st_plugins
from st_plugins.errors import SizeError, UnsupportedModelError
from st_plugins_export import OnnxEncoder, check_parity, export_onnx

WIDTH, DEPTH = 32, 3
RESIDUAL = {"use_residual": True} if "use_residual" in signature(Dense).parameters else {}  # 5.7 has it not
MODES = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")


def random_norm():
    norm = LayerNorm(WIDTH)
    torch.nn.init.uniform_(norm.norm.weight, 0.5, 2.0)
    torch.nn.init.uniform_(norm.norm.bias, -1.0, 1.0)
    return norm


def weighted_layers():
    return WeightedLayerPooling(
        WIDTH, num_hidden_layers=DEPTH, layer_start=1, layer_weights=torch.nn.Parameter(torch.tensor([0.5, 1.0, 3.0]))
    )


def with_modules(model, *modules, output_hidden_states=False):
    model[0].auto_model.config.output_hidden_states = output_hidden_states
    return SentenceTransformer(modules=[model[0], *modules], device="cpu").eval()


def assert_exported(model, folder, texts):
    """In one batch and one by one. BERT counts positions from the padding on: left of a text it changes the vector."""
    report = export_onnx(model, folder, show_progress=False)
    encoder = OnnxEncoder(folder)
    for batch in (texts, *([text] for text in texts)):
        np.testing.assert_allclose(encoder.encode(batch), model.encode(batch), atol=1e-5, rtol=0)
    return report


@pytest.mark.parametrize("padding_side", ["left", "right"])
def test_all_modes_of_pooling_at_once(build, texts, tmp_path, padding_side):
    model = build(pooling=MODES, padding_side=padding_side, layers=1)
    assert model.get_embedding_dimension() == WIDTH * len(MODES)
    assert_exported(model, tmp_path / "out", texts)


CASES = {
    "LayerNorm, Dropout": lambda: [Pooling(WIDTH), random_norm(), Dropout(0.9), Normalize()],
    "WordWeights": lambda: [
        WordWeights([f"piece {i}" for i in range(80)], {f"piece {i}": 0.1 * i for i in range(70)}),
        Pooling(WIDTH, ("mean", "mean_sqrt_len_tokens", "weightedmean")),
    ],
    "Dense on tokens": lambda: [
        Dense(WIDTH, 24, module_input_name="token_embeddings"),
        Pooling(24, "max"),
        Dense(24, 10, **RESIDUAL, activation_function=torch.nn.GELU()),
    ],
    "Dense, two outputs": lambda: [
        Pooling(WIDTH),
        Dense(WIDTH, 7, module_output_name="other"),
        Dense(7, 12, module_input_name="other", module_output_name="sentence_embedding"),
    ],
}


@pytest.mark.parametrize("case", CASES)
def test_modules_behind_the_transformer(build, texts, tmp_path, case):
    assert_exported(with_modules(build(padding_side="left", layers=1), *CASES[case]()), tmp_path / "out", texts)


def test_dense_with_any_activation(build, texts, tmp_path):
    names = ["Identity", "ReLU", "SiLU", "PReLU", "Softsign", "GELU", "Mish", "Sigmoid"]
    layers = [Dense(WIDTH, WIDTH, activation_function=getattr(torch.nn, name)()) for name in names]
    assert_exported(build(behind=layers, layers=1), tmp_path / "out", texts)


def test_weighted_layers(build, texts, tmp_path):
    model = with_modules(build(), weighted_layers(), Pooling(WIDTH), Normalize(), output_hidden_states=True)
    assert_exported(model, tmp_path / "out", texts)
    last = with_modules(model, Pooling(WIDTH), Normalize())
    assert not np.allclose(OnnxEncoder(tmp_path / "out").encode(texts), last.encode(texts), atol=1e-2)


def test_weighted_layers_have_no_shallow_sizes_and_no_exits(build, tmp_path):
    plain = with_modules(build(), weighted_layers(), Pooling(WIDTH), output_hidden_states=True)
    model = st_plugins.elastic(plain, sizes=[(1, WIDTH), (2, WIDTH)])
    with pytest.raises(SizeError, match=r"reads all 3 layers, so none can be left out, got size \(2, 32\)"):
        export_onnx(model, tmp_path / "out", sizes=[(2, WIDTH)])
    with pytest.raises(UnsupportedModelError, match="WeightedLayerPooling reads many layers"):
        export_onnx(model, tmp_path / "out", layer_per_text=True)


@pytest.mark.parametrize("dtype", [torch.bfloat16, pytest.param(torch.float16, marks=pytest.mark.slow)], ids=str)
def test_half_precision_is_exported_as_its_float32(build, texts, tmp_path, dtype):
    model = build(behind=[Normalize()], layers=1).to(dtype)
    export_onnx(model, tmp_path / "out", show_progress=False)
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    assert check_parity(model, tmp_path / "out", texts).max_difference <= 1e-5
    model.float()
    encoder = OnnxEncoder(tmp_path / "out")
    np.testing.assert_allclose(encoder.encode(texts), model.encode(texts), atol=1e-5, rtol=0)
    assert encoder.fingerprint == st_plugins.fingerprint(model)


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        (lambda: [CNN(WIDTH, 4), Pooling(12)], "got CNN, which reads padding, so that a text's vector would depend"),
        (
            lambda: [SpladePooling()],
            "got SpladePooling, whose vectors are sparse, .* Run it with sentence-transformers",
        ),
        (lambda: [LSTM(WIDTH, 4), Pooling(8)], "got LSTM, which needs the lengths that only WordEmbeddings gives"),
    ],
)
def test_modules_that_make_no_sense_in_a_graph_are_refused_by_name(build, tmp_path, modules, message):
    with pytest.raises(UnsupportedModelError, match=message):
        export_onnx(with_modules(build(), *modules()), tmp_path / "out")


def test_first_modules_that_work_in_python_are_refused_by_name(tmp_path):
    model = SentenceTransformer(modules=[BoW(["cats", "sleep"])], device="cpu")
    with pytest.raises(UnsupportedModelError, match="must be a Transformer, .*, got BoW, which counts words in Python"):
        export_onnx(model, tmp_path / "out")
