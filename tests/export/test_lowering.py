"""Every graph of an export in every precision: files, entries, vectors."""

from pathlib import Path

import numpy as np
import onnx
import pytest

import st_plugins
from st_plugins.errors import PrecisionError
from st_plugins_export import OnnxEncoder, check_parity, export_onnx
from st_plugins_export.closeness import cosines
from st_plugins_export.layout import read_manifest
from st_plugins_export.precisions import PRECISIONS

LOWERED = [name for name in PRECISIONS if name != "fp32"]


@pytest.mark.parametrize("name", list(PRECISIONS))
def test_sizes_lie_where_consumers_look(leaving, lowered, name):
    suffix = PRECISIONS[name].suffix
    manifest = read_manifest(lowered[0])
    assert manifest.precisions == tuple(PRECISIONS)
    found = manifest.at(name)
    assert [size.file for size in found.sizes] == [f"onnx/{stem}{suffix}.onnx" for stem in ("model", "model_L1_D16")]
    assert found.full.fingerprint == st_plugins.fingerprint(leaving, precision=name)
    assert found.sizes[1].fingerprint == st_plugins.fingerprint(leaving, layer=1, dim=16, precision=name)
    assert {graph.nodes for graph in found.sizes} != {
        graph.nodes for graph in manifest.sizes if graph.precision != name
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", list(PRECISIONS))
def test_exits_lie_beside_them(leaving, lowered_exits, name):
    suffix = PRECISIONS[name].suffix
    exits = read_manifest(lowered_exits[0]).at(name).exits
    stems = ("model_exit_gate", "model_layer_per_text")
    assert [exported.file for exported in exits] == [f"onnx/{stem}{suffix}.onnx" for stem in stems]
    assert exits[0].fingerprint == st_plugins.fingerprint(leaving, exit="gate", precision=name)
    assert exits[1].fingerprint is None


@pytest.mark.parametrize("name", LOWERED)
def test_every_size_gives_nearly_the_vectors_of_torch(leaving, lowered, texts, name):
    encoder = OnnxEncoder(lowered[0], precision=name)
    bar = PRECISIONS[name].min_cosine_of_one
    assert cosines(leaving.encode(texts), encoder.encode(texts)).min() >= bar
    small = {"layer": 1, "truncate_dim": 16}
    assert cosines(leaving.encode(texts, **small), encoder.encode(texts, **small)).min() >= bar
    assert not np.array_equal(encoder.encode(texts), OnnxEncoder(lowered[0]).encode(texts))


@pytest.mark.parametrize("name", LOWERED)
def test_no_text_depends_on_its_batch(lowered, texts, name):
    encoder = OnnxEncoder(lowered[0], precision=name)
    alone = np.concatenate([encoder.encode([text]) for text in texts])
    allowed = PRECISIONS[name].max_alone_difference
    np.testing.assert_allclose(encoder.encode(texts, batch_size=len(texts)), alone, atol=allowed, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("name", LOWERED)
def test_texts_that_leave_get_nearly_the_vectors_of_torch(leaving, lowered_exits, texts, name):
    encoder = OnnxEncoder(lowered_exits[0], precision=name)
    bar = PRECISIONS[name].min_cosine_of_one
    told = encoder.encode_with_exits(texts[:3], layers=[1, 2, 3])[0]
    expected = np.stack([leaving.encode(text, layer=layer) for layer, text in enumerate(texts[:3], 1)])
    assert cosines(expected, told).min() >= bar
    vectors, layers = encoder.encode_with_exits(texts, exit="gate")
    expected = np.stack([leaving.encode(text, layer=int(layer)) for text, layer in zip(texts, layers, strict=True)])
    assert cosines(expected, vectors).min() >= bar


@pytest.mark.slow
def test_minilm_in_int8_is_within_its_bars(minilm, tmp_path):
    """On other texts than the probes, too."""
    report = export_onnx(minilm, tmp_path / "out", precisions=["int8"], show_progress=False)
    quantized = report.sizes[1]
    assert quantized.precision == "int8"
    assert quantized.cosine_mean >= 0.998
    assert quantized.alone_difference <= 1e-6
    assert quantized.bytes < 0.3 * report.sizes[0].bytes
    texts = [line for line in (Path(__file__).parents[2] / "README.md").read_text().splitlines() if len(line) > 30][:40]
    found = OnnxEncoder(tmp_path / "out", precision="int8").encode(texts)
    assert cosines(minilm.encode(texts), found).mean() >= 0.998


@pytest.mark.parametrize("name", LOWERED)
def test_inputs_and_outputs_are_those_of_float32(lowered, name):
    manifest = read_manifest(lowered[0])
    for full, other in zip(manifest.at("fp32").sizes, manifest.at(name).sizes, strict=True):
        graphs = [onnx.load(lowered[0] / graph.file).graph for graph in (full, other)]
        assert graphs[0].input == graphs[1].input
        assert graphs[0].output == graphs[1].output


def test_a_precision_that_was_not_exported_is_refused(exported):
    with pytest.raises(PrecisionError, match=r"one of those exported, \['fp32'\], got 'fp16'\. Export it as well"):
        OnnxEncoder(exported, precision="fp16")


def test_identity_and_width_are_those_of_the_precision(leaving, lowered):
    encoder = OnnxEncoder(lowered[0], precision="fp16")
    assert (
        encoder.fingerprint == st_plugins.fingerprint(leaving, precision="fp16") != OnnxEncoder(lowered[0]).fingerprint
    )
    assert encoder.sizes == ((3, 32), (1, 16))
    assert encoder.exits == ()
    assert encoder.get_embedding_dimension() == 32


@pytest.mark.slow
def test_a_check_covers_every_precision(leaving, lowered_exits):
    folder, report = lowered_exits
    again = check_parity(leaving, folder)
    assert [graph.file for graph in again.sizes] == [graph.file for graph in report.sizes]
    for graph in (*again.sizes, *again.exits):
        assert graph.cosine_mean >= PRECISIONS[graph.precision].min_cosine
        assert graph.alone_difference <= PRECISIONS[graph.precision].max_alone_difference
        assert graph.speed > 0
