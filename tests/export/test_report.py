from pathlib import Path

from st_plugins_export import export_onnx
from st_plugins_export.report import ExitReport, ExportReport, SizeReport


def test_the_worst_size_decides_and_columns_line_up():
    sizes = (
        SizeReport(6, 384, "onnx/model.onnx", 90_396_762, 536, 1.8e-07, 3.94),
        SizeReport(12, 8, "onnx/model_L12_D8.onnx", 1_234_567, 1000, 2.5e-07, 12.0),
    )
    report = ExportReport(Path("folder"), 1e-05, sizes)
    assert report.max_difference == 2.5e-07
    assert str(report).splitlines() == [
        "folder: 2 sizes, largest difference from torch 2.5e-07 (allowed 1e-05)",
        "layer  dim  file                      MB  nodes  max difference  seconds",
        "    6  384  onnx/model.onnx           90    536         1.8e-07      3.9",
        "   12    8  onnx/model_L12_D8.onnx  1.23   1000         2.5e-07     12.0",
    ]


def test_graphs_with_exits_have_their_rows():
    sizes = (SizeReport(6, 384, "onnx/model.onnx", 90_396_762, 536, 1.8e-07, 3.94),)
    exits = (ExitReport("fast", (2, 4, 6), 384, "onnx/model_exit_fast.onnx", 90_434_525, 793, 2.5e-07, 6.1),)
    report = ExportReport(Path("folder"), 1e-05, sizes, exits)
    assert report.max_difference == 2.5e-07
    assert str(report).splitlines() == [
        "folder: 1 size and 1 graph with exits, largest difference from torch 2.5e-07 (allowed 1e-05)",
        "layer  dim  file                       MB  nodes  max difference  seconds",
        "    6  384  onnx/model.onnx            90    536         1.8e-07      3.9",
        "  2-6  384  onnx/model_exit_fast.onnx  90    793         2.5e-07      6.1",
    ]


def test_the_report_is_a_table(elastic, tmp_path):
    report = export_onnx(elastic, tmp_path / "out", sizes=[(1, 8)], show_progress=False)
    first, head, *rows = str(report).splitlines()
    assert first.startswith(f"{tmp_path / 'out'}: 2 sizes, largest difference from torch ")
    assert head.split()[:5] == ["layer", "dim", "file", "MB", "nodes"]
    assert len({len(line) for line in (head, *rows)}) == 1
    assert rows[1].split()[:3] == ["1", "8", "onnx/model_L1_D8.onnx"]
    for size in report.sizes:
        assert size.bytes == (tmp_path / "out" / size.file).stat().st_size
        assert 0 < size.max_difference <= report.max_difference <= 1e-5
        assert size.nodes > 50
        assert size.seconds > 0
