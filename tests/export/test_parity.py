"""check_parity: it finds wrong vectors and wrong tokens, and says which."""

import copy

import pytest
import torch
from tokenizers import normalizers

from st_plugins.errors import InputError, ManifestError, ParityError, UnsupportedModelError
from st_plugins_export import check_parity


def test_an_export_agrees_with_its_model_at_every_size(elastic, exported):
    report = check_parity(elastic, exported)
    assert [(size.layer, size.dim) for size in report.sizes] == [(3, 32), (2, 16)]
    assert all(0 < size.max_difference <= 1e-5 for size in report.sizes)
    assert report.folder == exported


@pytest.mark.parametrize("texts", [[], "a single text"])
def test_a_check_of_nothing_is_refused(elastic, exported, texts):
    with pytest.raises(
        InputError, match="texts must be a list of at least one text, got .* Leave it out for the probes"
    ):
        check_parity(elastic, exported, texts)


def test_texts_of_ones_own_can_be_compared(elastic, exported):
    report = check_parity(elastic, exported, ["the cats"] * 33 + ["sleep"])
    assert report.max_difference <= 1e-5


def test_an_export_of_other_weights_is_found(elastic, exported):
    other = copy.deepcopy(elastic)
    with torch.no_grad():
        other[0].auto_model.encoder.layer[1].output.dense.bias[0] += 0.01
    with pytest.raises(ParityError, match=r"model\.onnx must give .* off in a batch of 1 that starts with 'a'"):
        check_parity(other, exported)
    assert check_parity(other, exported, tolerance=1.0).max_difference > 1e-4


def test_nan_is_no_agreement(elastic, exported):
    other = copy.deepcopy(elastic)
    with torch.no_grad():
        other[0].auto_model.encoder.layer[0].output.dense.bias[0] = torch.nan
    with pytest.raises(ParityError, match="and is nan off"):
        check_parity(other, exported, tolerance=1.0)


def test_other_tokens_are_found(elastic, exported):
    other = copy.deepcopy(elastic)
    backend = other.tokenizer.backend_tokenizer
    backend.normalizer = normalizers.Sequence([backend.normalizer, normalizers.Replace("w", "v")])
    with pytest.raises(ParityError, match="other tokens than the model for 'word word"):
        check_parity(other, exported)


def test_another_limit_is_found(elastic, exported):
    other = copy.deepcopy(elastic)
    other.max_seq_length = 20
    with pytest.raises(ParityError, match="other tokens than the model for 'word word"):
        check_parity(other, exported)


def test_smaller_sizes_need_the_elastic_model(plain, exported):
    with pytest.raises(UnsupportedModelError, match="model for bake must be elastic"):
        check_parity(plain, exported)


def test_a_changed_graph_is_not_run(elastic, damaged):
    graph = damaged / "onnx" / "model_L2_D16.onnx"
    graph.write_bytes(graph.read_bytes() + b"\0")
    with pytest.raises(ManifestError, match="is not the file that was exported"):
        check_parity(elastic, damaged)
