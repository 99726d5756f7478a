"""A folder appears whole or not at all."""

import errno
import signal
from pathlib import Path

import onnx
import pytest

from st_plugins.errors import ExportError
from st_plugins_export import export_onnx
from st_plugins_export.staging import staged_folder


def test_a_target_is_refused_before_any_work(tmp_path):
    (tmp_path / "thesis.txt").write_text("years")
    work = []

    def fill(target):
        with staged_folder(target) as staged:
            work.append(staged)

    with pytest.raises(ExportError, match="must be missing, empty or an earlier export"):
        fill(tmp_path)
    assert work == []


def test_missing_parents_of_a_target_are_made(tmp_path):
    with staged_folder(tmp_path / "a" / "b") as staged:
        (staged / "file").write_text("done")
    assert (tmp_path / "a" / "b" / "file").read_text() == "done"


def test_a_target_that_fills_up_meanwhile_is_kept(tmp_path):
    def fill(target):
        with staged_folder(target):
            target.mkdir()
            (target / "thesis.txt").write_text("years")

    with pytest.raises(ExportError, match="must be missing, empty or an earlier export"):
        fill(tmp_path / "target")
    assert [path.name for path in tmp_path.rglob("*")] == ["target", "thesis.txt"]


def test_an_earlier_export_comes_back_if_the_new_one_cannot_be_moved(damaged):
    before = sorted(path.name for path in damaged.rglob("*"))
    with pytest.raises(ExportError, match="could not be written .*-new"), staged_folder(damaged) as staged:
        staged.rmdir()
    assert sorted(path.name for path in damaged.rglob("*")) == before
    assert [path.name for path in damaged.parent.iterdir()] == ["damaged"]


def test_what_python_left_beside_the_code_of_servers_is_not_in_the_way(damaged):
    compiled = damaged / "serving" / "__pycache__" / "text_embedder.cpython-311.pyc"
    compiled.parent.mkdir()
    compiled.write_bytes(b"")
    with staged_folder(damaged) as staged:
        (staged / "file").write_text("done")
    assert [path.name for path in damaged.iterdir()] == ["file"]


@pytest.mark.parametrize(
    "name",
    [
        "onnx/model.onnx_data",
        "manifest.json",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("onnx/model.onnx", "onnx/model_L1_D8.onnx")),
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("modules.json", "report.json")),
    ],
)
def test_a_full_disk_leaves_the_target_as_it_was(damaged, elastic, monkeypatch, name):
    before = {path: path.read_bytes() for path in damaged.rglob("*") if path.is_file()}
    filled = []

    def full(write):
        def refuse(path, *arguments, **options):
            if Path(path).as_posix().endswith(f"-new/{name}"):
                filled.append(path)
                raise OSError(errno.ENOSPC, "No space left on device", str(path))
            return write(path, *arguments, **options)

        return refuse

    monkeypatch.setattr(Path, "write_text", full(Path.write_text))
    monkeypatch.setattr(Path, "open", full(Path.open))
    save = onnx.save
    monkeypatch.setattr(onnx, "save", lambda graph, path: full(lambda file: save(graph, file))(path))
    message = r"damaged could not be written \(.*No space left on device.*\); it is as it was before\. Make room"
    with pytest.raises(ExportError, match=message):
        export_onnx(elastic, damaged, sizes=[(1, 8)], external_data=name.endswith("data"), show_progress=False)
    assert filled
    assert {path: path.read_bytes() for path in damaged.rglob("*") if path.is_file()} == before
    assert [path.name for path in damaged.parent.iterdir()] == ["damaged"]


@pytest.mark.parametrize("external_data", [True, False])
def test_a_graph_that_cannot_be_written_in_full_leaves_nothing(elastic, tmp_path, external_data):
    resource = pytest.importorskip("resource", reason="a limit on the size of files is an idea of Unix")
    target = tmp_path / "out"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # then writing fails, and nobody is killed
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, limits[1]))
    try:
        with pytest.raises(ExportError, match="File too large|could not be written"):
            export_onnx(elastic, target, external_data=external_data, show_progress=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert list(tmp_path.iterdir()) == []


def test_a_block_that_fails_leaves_no_folder(tmp_path):
    def fail(target):
        with staged_folder(target) as staged:
            (staged / "half").write_text("done")
            raise KeyboardInterrupt("stopped")

    with pytest.raises(KeyboardInterrupt, match="stopped"):
        fail(tmp_path / "target")
    assert list(tmp_path.iterdir()) == []
