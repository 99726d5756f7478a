"""export_onnx: what it does not accept is refused by name, and failures leave no trace."""

import copy
import sys
from dataclasses import replace

import pytest
import torch
from sentence_transformers.sentence_transformer.modules import Dense

from export_cases import contents
from st_plugins.errors import ExportError, InputError, MissingExtraError, ParityError, SizeError
from st_plugins_export import export_onnx
from st_plugins_export.exit_graph import write_exit_graph

WIDTH, DEPTH = 32, 3


class Branch(torch.nn.Module):
    """Something a trace gets wrong: it does one thing for the batch of two that is traced, and another for the rest."""

    def forward(self, x):
        return x * 2 if x.shape[0] == 2 else x


class Bessel(torch.nn.Module):
    """Something ONNX has no operator for."""

    def forward(self, x):
        return torch.special.bessel_j0(x)


def test_a_graph_with_exits_that_differs_fails_the_export(leaving, tmp_path, monkeypatch):
    def higher(model, file, layers, policy, *rest, **options):
        return write_exit_graph(model, file, layers, replace(policy, threshold=2.0), *rest, **options)

    monkeypatch.setattr("st_plugins_export.export_files.write_exit_graph", higher)
    with pytest.raises(ParityError, match=r"model_exit_gate\.onnx a text must .* in torch, 1, and leaves at 3: 'a'"):
        export_onnx(leaving, tmp_path / "out", exits=["gate"], show_progress=False)
    assert list(tmp_path.iterdir()) == []


def test_another_opset_is_refused(plain, tmp_path):
    with pytest.raises(ExportError, match=r"opset must be one of \[17, 18, 19, 20\], got 16"):
        export_onnx(plain, tmp_path / "out", opset=16)


def test_a_precision_that_misses_its_bar_leaves_nothing_behind(plain, tmp_path):
    message = r"model_fp16\.onnx must give vectors whose cosine .* at least 1\.00000 on average .* min_cosine"
    with pytest.raises(ParityError, match=message):
        export_onnx(plain, tmp_path / "out", precisions=["fp16"], min_cosine={"fp16": 1.0}, show_progress=False)
    assert list(tmp_path.iterdir()) == []


def test_calibration_texts_that_are_none_are_refused(plain, tmp_path):
    with pytest.raises(InputError, match="calibration_texts must be a list of at least one text"):
        export_onnx(plain, tmp_path / "out", precisions=["int8"], calibration_texts=[])


def test_two_graphs_of_one_name_are_refused(leaving, tmp_path):
    model = copy.deepcopy(leaving)
    model[0].add_exit_policy(replace(model[0].exit_policies["gate"], name="gate_fp16"))
    with pytest.raises(ExportError, match=r"would write onnx/model_exit_gate_fp16\.onnx twice.* Rename the policy"):
        export_onnx(model, tmp_path / "out", exits=["gate", "gate_fp16"], precisions=["fp16"])


def test_a_target_with_other_things_is_refused(elastic, damaged, tmp_path):
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "thesis.txt").write_text("years")
    with pytest.raises(ExportError, match="must be missing, empty or an earlier export"):
        export_onnx(elastic, tmp_path / "work", show_progress=False)
    with pytest.raises(ExportError, match="must be missing, empty or an earlier export"):
        export_onnx(elastic, tmp_path / "work" / "thesis.txt", show_progress=False)
    (damaged / "notes.txt").write_text("mine")
    with pytest.raises(ExportError, match=r"holds 'notes\.txt', which the export did not write"):
        export_onnx(elastic, damaged, show_progress=False)
    assert (tmp_path / "work" / "thesis.txt").read_text() == "years"
    assert (damaged / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("activation", "error", "message"),
    [
        (Branch(), ParityError, r"model\.onnx must give the vectors of torch to within 1e-05, and is .* off"),
        (Bessel(), ExportError, "BertModel could not be written as ONNX: .*bessel_j0"),
    ],
    ids=["wrong trace", "no operator"],
)
def test_a_failed_export_leaves_the_target_as_it_was(build, damaged, activation, error, message):
    before = contents(damaged)
    model = build(behind=[Dense(WIDTH, 8, activation_function=activation)], layers=1)
    with pytest.raises(error, match=message):
        export_onnx(model, damaged, show_progress=False)
    assert contents(damaged) == before
    with pytest.raises(error, match=message):
        export_onnx(model, damaged.parent / "new", show_progress=False)
    assert sorted(path.name for path in damaged.parent.iterdir()) == ["damaged", "model"]


def test_no_tolerance_is_never_reached(elastic, tmp_path):
    with pytest.raises(ParityError, match="to within 0e"):
        export_onnx(elastic, tmp_path / "out", tolerance=0.0, show_progress=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_a_missing_package_is_named_before_any_work(elastic, tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)  # as good as not installed
    with pytest.raises(MissingExtraError, match=rf"'{package}'.*pip install 'st-plugins\[onnx\]'"):
        export_onnx(elastic, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_sizes_that_do_not_exist_are_refused(plain, elastic, tmp_path):
    with pytest.raises(ExportError, match=r"Only elastic models have sizes.* Wrap it first"):
        export_onnx(plain, tmp_path / "out", sizes=[(1, 8)])
    with pytest.raises(SizeError, match=f"layer must be an integer from 1 to {DEPTH}"):
        export_onnx(elastic, tmp_path / "out", sizes=[(4, 8)])
    with pytest.raises(SizeError, match=f"dim must be an integer from 1 to {WIDTH}.*got size \\(1, 33\\)"):
        export_onnx(elastic, tmp_path / "out", sizes=[(1, 33)])
    with pytest.raises(SizeError, match=r"sizes must be pairs \(layer, dim\), got 2"):
        export_onnx(elastic, tmp_path / "out", sizes=[2])
    assert list(tmp_path.iterdir()) == []
