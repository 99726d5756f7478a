"""What each graph of an export cost, and that writing checks nothing."""

from tqdm import tqdm

from st_plugins_export.export_files import ExportFiles
from st_plugins_export.external_data import GraphWriter
from st_plugins_export.layout import read_manifest
from st_plugins_export.precisions import wanted_precisions


def test_every_graph_has_its_costs(plain, tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    with tqdm(total=2, disable=True) as progress:
        files = ExportFiles(
            plain,
            folder,
            GraphWriter(folder),
            precisions=wanted_precisions(["fp16"]),
            calibration_texts=["cats sleep"],
            layout="portable",
            packed="auto",
            opset=17,
            progress=progress,
        )
        costs = files.write([(3, 32)], [], 1e-5)
    assert list(costs) == ["onnx/model.onnx", "onnx/model_fp16.onnx"]
    assert all(cost.seconds > 0 and cost.fallbacks == 0 for cost in costs.values())
    manifest = read_manifest(folder)
    assert [size.file for size in manifest.sizes] == list(costs)
    assert manifest.reached == {}
