"""A file or a folder appears whole or not at all."""

from pathlib import Path

import pytest

from st_plugins.whole_writes import whole_file, whole_folder


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("before", [None, "old"])
def test_a_file_takes_its_place_when_the_block_ends(tmp_path, before):
    file = tmp_path / "a.txt"
    if before is not None:
        file.write_text(before)
    with whole_file(file) as unfinished:
        unfinished.write_text("new")
        assert (file.read_text() if file.exists() else None) == before
    assert file.read_text() == "new"
    assert names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_a_block_that_fails_changes_no_file(tmp_path, error):
    (tmp_path / "a.txt").write_text("old")

    def fail():
        with whole_file(tmp_path / "a.txt") as unfinished:
            unfinished.write_text("half")
            raise error("stopped")

    with pytest.raises(error, match="stopped"):
        fail()
    assert (tmp_path / "a.txt").read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_two_writers_of_one_file_do_not_meet(tmp_path):
    with whole_file(tmp_path / "a") as one, whole_file(tmp_path / "a") as other:
        assert one != other
        one.write_text("one")
        other.write_text("other")
    assert (tmp_path / "a").read_text() == "one"


@pytest.mark.parametrize("before", [None, [], ["old"]])
def test_a_folder_takes_its_place_when_the_block_ends(tmp_path, before):
    target = tmp_path / "parent" / "target"
    if before is not None:
        target.mkdir(parents=True)
        for name in before:
            (target / name).touch()
    with whole_folder(target) as unfinished:
        (unfinished / "new").touch()
        assert (names(target) if target.exists() else None) == before
    assert names(target) == ["new"]
    assert names(tmp_path / "parent") == ["target"]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_a_block_that_fails_changes_no_folder(tmp_path, error):
    target = tmp_path / "target"
    target.mkdir()
    (target / "old").touch()

    def fail():
        with whole_folder(target) as unfinished:
            (unfinished / "half").touch()
            raise error("stopped")

    with pytest.raises(error, match="stopped"):
        fail()
    assert names(target) == ["old"]
    assert names(tmp_path) == ["target"]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_an_earlier_folder_comes_back_if_the_new_one_cannot_be_moved(tmp_path, monkeypatch, error):
    target = tmp_path / "target"
    target.mkdir()
    (target / "old").touch()
    rename = Path.rename

    def refuse(path, to):
        if path.name.endswith("-new"):
            raise error("no permission")
        return rename(path, to)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(error, match="no permission"), whole_folder(target) as unfinished:
        (unfinished / "new").touch()
    assert names(target) == ["old"]
    assert names(tmp_path) == ["target"]
