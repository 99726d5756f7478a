import pytest

import st_plugins
from st_plugins.commands.saved_models import check_new_folder, save_new, save_over
from st_plugins.errors import InputError


class Broken:
    def save_pretrained(self, folder):
        raise OSError("no room")


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_new_folder_appears_whole(model, tmp_path):
    (tmp_path / "empty").mkdir()
    for name in ("new", "empty"):
        save_new(model, str(tmp_path / name))
        assert st_plugins.fingerprint(st_plugins.load(tmp_path / name)) == st_plugins.fingerprint(model)
    assert names(tmp_path) == ["empty", "new"]


def test_a_folder_with_something_in_it_is_refused(model, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    for action in (lambda: check_new_folder(str(tmp_path)), lambda: save_new(model, str(tmp_path))):
        with pytest.raises(InputError, match="must be a new folder, and it holds something. Name another one."):
            action()
    assert names(tmp_path) == ["mine.txt"]


def test_a_folder_that_fills_up_meanwhile_is_kept(tmp_path):
    class Slow:
        def save_pretrained(self, folder):
            (tmp_path / "new").mkdir()
            (tmp_path / "new" / "mine.txt").touch()

    with pytest.raises(InputError, match="must be a new folder, and it holds something"):
        save_new(Slow(), str(tmp_path / "new"))
    assert [path.name for path in tmp_path.rglob("*")] == ["new", "mine.txt"]


def test_saving_over_keeps_what_is_beside_the_model(model, folder):
    (folder / "model" / "notes.txt").write_text("mine")
    save_over(model, str(folder / "model"))
    assert (folder / "model" / "notes.txt").read_text() == "mine"
    assert st_plugins.load(folder / "model")[0].sizes == model[0].sizes
    assert not [name for name in names(folder) if name.startswith(".")]
    with pytest.raises(InputError, match="must be a folder to be written to. Name one with --output."):
        save_over(model, "sentence-transformers/all-MiniLM-L6-v2")


def test_a_failure_leaves_everything_as_it_was(folder):
    before = {path: path.read_bytes() for path in (folder / "model").rglob("*") if path.is_file()}
    for save, target in ((save_new, "new"), (save_over, "model")):
        with pytest.raises(OSError, match="no room"):
            save(Broken(), str(folder / target))
    assert {path: path.read_bytes() for path in (folder / "model").rglob("*") if path.is_file()} == before
    assert not [name for name in names(folder) if name.startswith(".") or name == "new"]
