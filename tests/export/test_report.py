import json
from dataclasses import asdict
from pathlib import Path

from st_plugins_export import export_onnx
from st_plugins_export.layout import read_manifest
from st_plugins_export.report import ExitReport, ExportReport, SizeReport
from st_plugins_export.tried import Tried


def test_the_worst_size_decides_and_columns_line_up():
    sizes = (
        SizeReport(6, 384, "onnx/model.onnx", 90_396_762, 536, 1.8e-07, 3.94),
        SizeReport(12, 8, "onnx/model_L12_D8.onnx", 1_234_567, 1000, 2.5e-07, 12.0),
    )
    report = ExportReport(Path("folder"), 1e-05, sizes)
    assert report.max_difference == 2.5e-07
    assert str(report).splitlines() == [
        "folder: 2 sizes, largest difference from torch 2.5e-07 (allowed 1e-05)",
        "layer  dim  precision  file                      MB  nodes  max diff   cosine      min    alone  speed   sec",
        "    6  384  fp32       onnx/model.onnx           90    536   1.8e-07  1.00000  1.00000  0.0e+00          3.9",
        "   12    8  fp32       onnx/model_L12_D8.onnx  1.23   1000   2.5e-07  1.00000  1.00000  0.0e+00         12.0",
    ]


def test_graphs_with_exits_have_their_rows():
    sizes = (SizeReport(6, 384, "onnx/model.onnx", 90_396_762, 536, 1.8e-07, 3.94),)
    exits = (ExitReport("fast", (2, 4, 6), 384, "onnx/model_exit_fast.onnx", 90_434_525, 793, 2.5e-07, 6.1),)
    report = ExportReport(Path("folder"), 1e-05, sizes, exits)
    assert report.max_difference == 2.5e-07
    assert str(report).splitlines() == [
        "folder: 1 size and 1 graph with exits, largest difference from torch 2.5e-07 (allowed 1e-05)",
        "layer  dim  precision  file                       MB  nodes  max diff   cosine      min    alone  speed  sec",
        "    6  384  fp32       onnx/model.onnx            90    536   1.8e-07  1.00000  1.00000  0.0e+00         3.9",
        "  2-6  384  fp32       onnx/model_exit_fast.onnx  90    793   2.5e-07  1.00000  1.00000  0.0e+00         6.1",
    ]


def test_precisions_have_their_rows_and_only_float32_is_held_to_the_tolerance():
    full = SizeReport(6, 384, "onnx/model.onnx", 90_396_762, 536, 1.8e-07, 3.94, alone_difference=7.5e-8, speed=1.0)
    half = SizeReport(6, 384, "onnx/model_fp16.onnx", 45_246_319, 523, 3e-4, 2.1, "fp16", 0.9999, 0.9995, 1e-5, 0.7, 3)
    report = ExportReport(Path("folder"), 1e-05, (full, half))
    assert report.max_difference == 1.8e-07
    assert str(report).splitlines() == [
        "folder: 1 size in fp32, fp16, largest difference from torch in fp32 1.8e-07 (allowed 1e-05)",
        "layer  dim  precision  file                  MB  nodes  max diff   cosine      min    alone  speed  sec",
        "    6  384  fp32       onnx/model.onnx       90    536   1.8e-07  1.00000  1.00000  7.5e-08   1.00  3.9",
        "    6  384  fp16       onnx/model_fp16.onnx  45    523   3.0e-04  0.99990  0.99950  1.0e-05   0.70  2.1",
        "speed: times as fast as the float32 file on the CPU of this machine, measured for a second",
        "onnx/model_fp16.onnx: 3 operators stayed float32",
    ]
    assert report.reached["onnx/model_fp16.onnx"] == {
        "max_difference": 3e-4,
        "cosine_mean": 0.9999,
        "cosine_min": 0.9995,
        "alone_difference": 1e-5,
    }


def test_the_report_lies_in_the_folder_and_its_figures_in_the_manifest(lowered):
    folder, report = lowered
    assert (folder / "report.json").read_text() == report.as_json()
    graphs = json.loads(report.as_json())["graphs"]
    assert [graph["file"] for graph in graphs] == [graph.file for graph in (*report.sizes, *report.exits)]
    assert read_manifest(folder).reached == report.reached


def test_graphs_that_stayed_padded_are_listed_by_their_reason():
    sizes = (
        SizeReport(6, 384, "onnx/model.onnx", 90_396_762, 536, 1.8e-07, 3.94, padded_because="it reads padding"),
        SizeReport(
            6, 384, "onnx/model_fp16.onnx", 45_246_319, 523, 3e-4, 2.1, "fp16", padded_because="it reads padding"
        ),
        SizeReport(3, 8, "onnx/model_L3_D8.onnx", 1_234_567, 100, 2.5e-07, 12.0, padded_because="it was asked for"),
    )
    report = ExportReport(Path("folder"), 1e-05, sizes, tried=Tried(4, 2, 9, {}, {1: 9}, ("",)))
    assert str(report).splitlines()[-3:] == [
        "compared on 4 texts of 2 to 9 tokens; in batches of 1 x 9",
        "onnx/model.onnx, onnx/model_fp16.onnx: padding is computed too, as it reads padding",
        "onnx/model_L3_D8.onnx: padding is computed too, as it was asked for",
    ]
    content = json.loads(report.as_json())
    assert [graph["padded_because"] for graph in content["graphs"]] == [size.padded_because for size in sizes]
    assert content["tried"] == {**asdict(report.tried), "batches": {"1": 9}, "prompts": [""]}


def test_the_report_is_a_table(elastic, tmp_path):
    report = export_onnx(elastic, tmp_path / "out", sizes=[(1, 8)], show_progress=False)
    first, head, *rows = str(report).splitlines()
    assert first.startswith(f"{tmp_path / 'out'}: 2 sizes, largest difference from torch ")
    assert head.split()[:5] == ["layer", "dim", "precision", "file", "MB"]
    assert rows.pop() == f"compared on {report.tried}"
    assert len({len(line) for line in (head, *rows)}) == 1
    assert rows[1].split()[:4] == ["1", "8", "fp32", "onnx/model_L1_D8.onnx"]
    for size in report.sizes:
        assert size.bytes == (tmp_path / "out" / size.file).stat().st_size
        assert 0 < size.max_difference <= report.max_difference <= 1e-5
        assert size.nodes > 50
        assert size.seconds > 0
