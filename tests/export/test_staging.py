"""A folder appears whole or not at all."""

import pytest

from st_plugins.errors import ExportError
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


def test_a_block_that_fails_leaves_no_folder(tmp_path):
    def fail(target):
        with staged_folder(target) as staged:
            (staged / "half").write_text("done")
            raise KeyboardInterrupt("stopped")

    with pytest.raises(KeyboardInterrupt, match="stopped"):
        fail(tmp_path / "target")
    assert list(tmp_path.iterdir()) == []
