"""What last_hidden_state holds: the vector of the text at every token, or the tokens; each is proved by the export."""

import shutil

import numpy as np
import onnxruntime
import pytest
from sentence_transformers.sentence_transformer.modules import Dense, Normalize

from st_plugins.errors import ManifestError, ParityError
from st_plugins_export import check_parity, export_onnx
from st_plugins_export.layout import read_manifest
from st_plugins_export.opened import OpenedExport

TEXTS = ["a", "cats sleep", "the weather is lovely today, is it not", ""]


def run(folder, name="onnx/model.onnx"):
    """The mask, and the outputs of a batch with padding."""
    opened = OpenedExport(folder)
    inputs = opened.inputs(opened.tokenize(TEXTS))
    names = ["last_hidden_state", "sentence_embedding"]
    return inputs["attention_mask"], *onnxruntime.InferenceSession(folder / name).run(names, inputs)


def pooled(tokens, mask):
    """As consumers pool: mean, CLS, last token, the mean that forgets the mask, each normalized again or not."""
    mask = mask.astype(np.float32)
    last = mask.shape[1] - 1 - mask[:, ::-1].argmax(axis=1)
    rows = np.arange(len(mask))
    ways = {
        "mean": (tokens * mask[..., None]).sum(axis=1) / mask.sum(axis=1, keepdims=True),
        "CLS": tokens[:, 0],
        "first token": tokens[rows, mask.argmax(axis=1)],
        "last token": tokens[rows, last],
        "last position": tokens[:, -1],
        "mean over padding": tokens.mean(axis=1),
        "max": tokens.max(axis=1),
    }
    return ways | {f"{way}, normalized": v / np.linalg.norm(v, axis=1, keepdims=True) for way, v in ways.items()}


@pytest.mark.parametrize(
    ("pooling", "side"),
    [("mean", "right"), ("cls", "left"), ("lasttoken", "left"), (("max", "mean_sqrt_len_tokens"), "right")],
    ids=str,
)
def test_every_way_to_pool_gives_the_vectors_of_torch(build, tmp_path, pooling, side):
    width = 32 * len(np.atleast_1d(pooling))
    model = build(pooling=pooling, behind=[Dense(width, 12), Normalize()], padding_side=side, layers=1)
    export_onnx(model, tmp_path / "out", show_progress=False)
    mask, tokens, sentences = run(tmp_path / "out")
    expected = model.encode(TEXTS)
    np.testing.assert_allclose(sentences, expected, atol=1e-5, rtol=0)
    for way, vectors in pooled(tokens, mask).items():
        np.testing.assert_allclose(vectors, expected, atol=1e-5, rtol=0, err_msg=way)


def test_smaller_sizes_are_repeated_too(elastic, exported):
    mask, tokens, _ = run(exported, "onnx/model_L2_D16.onnx")
    for vectors in pooled(tokens, mask).values():
        np.testing.assert_allclose(vectors, elastic.encode(TEXTS, layer=2, truncate_dim=16), atol=1e-5, rtol=0)


def test_tokens_are_those_of_torch(build, tmp_path):
    model = build(behind=[Dense(32, 12)], layers=1)
    export_onnx(model, tmp_path / "out", layout="tokens", show_progress=False)
    mask, tokens, _ = run(tmp_path / "out")
    expected = model.encode(TEXTS, output_value="token_embeddings", convert_to_numpy=False)
    for row, real, states in zip(tokens, mask, expected, strict=True):
        np.testing.assert_allclose(row[: real.sum()], states.numpy(), atol=1e-5, rtol=0)
    assert read_manifest(tmp_path / "out").layout == "tokens"


def test_an_unknown_layout_is_refused(plain, tmp_path):
    with pytest.raises(ValueError, match=r"layout must be one of \('portable', 'tokens'\), got 'sideways'"):
        export_onnx(plain, tmp_path / "out", layout="sideways")
    assert not (tmp_path / "out").exists()


@pytest.fixture
def mislabelled(exported, tmp_path):
    """An export whose manifest names the other layout."""
    folder = tmp_path / "mislabelled"
    shutil.copytree(exported, folder)
    manifest = folder / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"layout": "portable"', '"layout": "tokens"'))
    return folder


def test_an_export_that_does_not_keep_to_its_layout_is_found(elastic, mislabelled, build, tmp_path):
    with pytest.raises(ParityError, match=r"first output of onnx/model\.onnx must be the token embeddings of torch"):
        check_parity(elastic, mislabelled)
    model = build(layers=1)
    export_onnx(model, tmp_path / "out", layout="tokens", show_progress=False)
    manifest = tmp_path / "out" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"layout": "tokens"', '"layout": "portable"'))
    with pytest.raises(ParityError, match=r"must be its sentence embedding at each token, and is not"):
        check_parity(model, tmp_path / "out")


def test_a_manifest_with_an_unknown_layout_is_refused(mislabelled):
    manifest = mislabelled / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"layout": "tokens"', '"layout": "other"'))
    with pytest.raises(ManifestError, match=r"one of \('portable', 'tokens'\) for 'layout', got 'other'"):
        read_manifest(mislabelled)
