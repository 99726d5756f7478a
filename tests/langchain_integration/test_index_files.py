"""An index on disk: comes back whole, opens without reading, and survives whatever happens to a save."""

import json
import mmap
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from langchain_core.documents import Document

from langchain_st_plugins.index import ElasticIndex
from langchain_st_plugins.index_files import load_index, save_index
from st_plugins.errors import ManifestError, UnsafeModelError

CANARY = np.array([0.6, 0.8], dtype=np.float32)


def make_index(count=20, seed=0):
    index = ElasticIndex(fingerprint="toy/1", layer=4, dim=8, exit="fast")
    vectors = np.random.default_rng(seed).standard_normal((count, 8))
    index.add([Document(f"text {i}", id=str(i), metadata={"n": i}) for i in range(count)], vectors)
    return index


@pytest.fixture
def folder(tmp_path):
    save_index(make_index(), tmp_path / "saved", canary=CANARY)
    return tmp_path / "saved"


def test_an_index_comes_back_as_it_was(folder):
    index, loaded = make_index(), load_index(folder)[0]
    assert (loaded.fingerprint, loaded.made, len(loaded)) == (index.fingerprint, index.made, 20)
    np.testing.assert_array_equal(load_index(folder)[1], CANARY)
    for dim in (3, 8):
        query = np.random.default_rng(1).standard_normal(dim)
        for options in ({"k": 5}, {"k": 5, "filter": {"n": 3}}, {"k": 3, "shortlist_dim": 2, "fetch_k": 9}):
            assert loaded.search(query, **options) == index.search(query, **options)
    assert loaded.get(["7"]) == index.get(["7"])


def test_opening_reads_neither_vectors_nor_documents(folder):
    index = load_index(folder)[0]
    mapped = index.state.vectors
    while isinstance(mapped, np.ndarray):
        mapped = mapped.base
    assert isinstance(mapped, mmap.mmap)
    index.search(np.ones(8), k=3)
    assert index.state.documents._all is None


def test_a_loaded_index_can_grow_shrink_and_be_saved_over_itself(folder):
    index = load_index(folder)[0]
    index.add([Document("new", id="new"), Document("again", id="3")], np.eye(2, 8))
    index.delete(["0"])
    save_index(index, folder, canary=CANARY)
    again = load_index(folder)[0]
    assert len(again) == 20
    assert [document.page_content for document in again.get(["new", "3", "0"])] == ["new", "again"]
    assert again.search(np.eye(1, 8)[0], k=1)[0][0].id == "new"
    assert len(index) == 20  # the files it came from are gone, and it does not mind
    assert len(list(folder.iterdir())) == 4


def test_an_empty_index_comes_back(tmp_path):
    save_index(ElasticIndex(fingerprint="toy/1"), tmp_path, canary=CANARY)
    index = load_index(tmp_path)[0]
    assert index.search(np.ones(3), k=1) == []
    index.add([Document("a", id="a")], np.ones((1, 5)))
    assert index.width == 5


def test_there_is_no_pickle(folder):
    for file in folder.glob("*.npy"):
        np.load(file, allow_pickle=False)
    assert {file.suffix for file in folder.iterdir()} == {".json", ".npy", ".jsonl"}


def test_a_save_that_fails_changes_nothing(folder):
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    bad = make_index()
    bad.add([Document("bad", id="bad", metadata={"x": object()})], np.ones((1, 8)))
    with pytest.raises(TypeError, match="'bad' is not"):
        save_index(bad, folder, canary=CANARY)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


SAVE_FOR_EVER = """
import sys
from pathlib import Path
import numpy as np
from langchain_core.documents import Document
from langchain_st_plugins.index import ElasticIndex
from langchain_st_plugins.index_files import save_index

index = ElasticIndex(fingerprint="toy/1")
documents = [Document(f"text {i}", id=str(i)) for i in range(3000)]
index.add(documents, np.random.default_rng(0).standard_normal((3000, 64)))
print("ready", flush=True)
while True:
    save_index(index, Path(sys.argv[1]), canary=np.zeros(64))
"""


@pytest.mark.slow
def test_killing_a_save_leaves_the_old_index_or_the_new_one_whole(tmp_path):
    """kill -9 at moments spread over a save; each time the folder opens, and the next save clears what was left."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    interrupted = 0
    for attempt in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", SAVE_FOR_EVER, str(tmp_path)], env=environment, stdout=subprocess.PIPE
        )
        with process.stdout:
            assert process.stdout.readline() == b"ready\n"
            while not (tmp_path / "manifest.json").exists():
                assert process.poll() is None
                time.sleep(0.01)
            time.sleep(0.013 * (attempt + 1))
            process.send_signal(signal.SIGKILL)
            process.wait()
        interrupted += len(list(tmp_path.iterdir())) != 4
        index = load_index(tmp_path)[0]
        assert (len(index), len(index.state.documents.loaded())) == (3000, 3000)
        assert np.isfinite(np.asarray(index.state.vectors)).all()
    save_index(index, tmp_path, canary=CANARY)
    assert len(list(tmp_path.iterdir())) == 4
    assert len(load_index(tmp_path)[0]) == 3000


@pytest.fixture
def graphed(tmp_path):
    """A folder with a graph, some of whose documents have gone again."""
    index = make_index(400)
    index.keep_graph(100, dim=4)
    index.delete([str(i) for i in range(0, 60, 2)])
    save_index(index, tmp_path / "graphed", canary=CANARY)
    return tmp_path / "graphed"


def found(index, query):
    return [(d.id, score) for d, score in index.search(query, k=5, shortlist_dim=4, fetch_k=40)]


def test_a_graph_comes_back_and_grows_and_is_read_only_when_asked_for(graphed):
    index = load_index(graphed, with_graph=True)[0]
    assert index.state.graph.count == 370
    index.keep_graph(100, dim=4)
    assert index.state.graph._mapped is not None  # opened, not made again
    query = np.random.default_rng(2).standard_normal(8)
    assert found(index, query) == found(load_index(graphed, with_graph=True)[0], query)
    index.add([Document("new", id="new")], query[np.newaxis])
    assert found(index, query)[0] == ("new", pytest.approx(1))
    save_index(index, graphed, canary=CANARY)
    assert len(list(graphed.iterdir())) == 6
    assert found(load_index(graphed, with_graph=True)[0], query) == found(index, query)
    assert load_index(graphed)[0].state.graph is None
    index.keep_graph(None)
    save_index(index, graphed, canary=CANARY)
    assert len(list(graphed.iterdir())) == 4
    assert load_index(graphed, with_graph=True)[0].state.graph is None


def test_a_graph_that_is_not_what_was_saved_is_refused(graphed):
    manifest = json.loads((graphed / "manifest.json").read_text())
    graph, nodes = (graphed / manifest["files"][kind] for kind in ("graph", "nodes"))
    content, rows = graph.read_bytes(), nodes.read_bytes()

    def refused(message, error=ManifestError):
        with pytest.raises(error, match=message):
            load_index(graphed, with_graph=True)

    for bad in (b"x" + content[1:], content[:-1]):
        graph.write_bytes(bad)
        refused(r"must be what was saved, but its sha256 differs\. Build")
        load_index(graphed)  # which does not read it
    graph.write_bytes(b"")
    refused(r"holds a damaged graph .*empty")
    graph.write_bytes(content)
    np.save(nodes, np.zeros((3, 2)))
    refused(r"must hold int64 \(n,\), it holds float64 \(3, 2\)")
    np.save(nodes, np.arange(370))
    change(graphed, documents=370, graph={**manifest["graph"], "dim": 5})
    refused(r"must have 370 documents at dim 5, this one has 370 at dim 4")
    nodes.write_bytes(rows)
    change(graphed, graph=3)
    refused(r"is damaged at \['graph'\]")
    change(graphed, graph=None)
    refused(r"is damaged at \['files'\]")
    change(graphed, graph=manifest["graph"], files={**manifest["files"], "graph": f"../{graph.name}"})
    refused("must name files of its own folder", UnsafeModelError)


def change(folder, **entries):
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, **entries}))


def test_a_folder_without_an_index_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no manifest\.json\. Write one: store\.save_local"):
        load_index(tmp_path)
    os.mkfifo(tmp_path / "manifest.json")  # reading it would wait for ever
    with pytest.raises(FileNotFoundError, match=r"has no manifest\.json"):
        load_index(tmp_path)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"format": "something else"}, r"must be of the format 'langchain_st_plugins index 1', it is 'something else'"),
        ({"documents": "20"}, r"is damaged at \['documents'\]\. Build"),
        ({"canary": None}, r"is damaged at \['canary'\]"),
        ({"files": {}}, r"is damaged at \['files'\]"),
        ({"documents": True}, r"is damaged at \['documents'\]"),
        ({"documents": 0, "width": 10**30}, r"is damaged at \['width'\]"),
        ({"canary": ["a", None]}, r"is damaged at \['canary'\]"),
        ({"width": 9}, r"must hold float32 vectors \(20, 9\) and as many documents, it holds float32 \(20, 8\)"),
    ],
)
def test_a_damaged_manifest_is_refused(folder, entries, message):
    change(folder, **entries)
    with pytest.raises(ManifestError, match=message):
        load_index(folder)
    for text in ("[", "[" * 100_000):
        (folder / "manifest.json").write_text(text)
        with pytest.raises(ManifestError, match="is damaged"):
            load_index(folder)


def test_a_manifest_of_gigabytes_is_not_read(folder):
    os.truncate(folder / "manifest.json", 65 * 2**20)  # a sparse file
    with pytest.raises(ManifestError, match=r"manifest\.json may have 64 MiB and has more\. Do not open"):
        load_index(folder)


@pytest.mark.parametrize("kind", ["vectors", "ends"])
@pytest.mark.parametrize(
    ("old", "new"), [(b"(20", b"((0"), (b"(20", b"(99"), (b"fortran", b"fort\0an"), (b", ", b"9" * 30)]
)
def test_whatever_a_damaged_header_makes_numpy_raise_is_an_error_of_ours(folder, kind, old, new):
    file = next(folder.glob(f"{kind}-*"))
    file.write_bytes(file.read_bytes().replace(old, new, 1))
    with pytest.raises(ManifestError, match=r"holds a damaged index \(" + kind):
        load_index(folder)


def test_a_save_that_fails_at_the_manifest_leaves_nothing_behind(folder, monkeypatch):
    before = {file.name: file.read_bytes() for file in folder.iterdir()}

    def full(*_):
        raise OSError("no space left")

    with monkeypatch.context() as disk:
        disk.setattr(os, "replace", full)
        with pytest.raises(OSError, match="no space left"):
            save_index(make_index(seed=1), folder, canary=CANARY)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


def test_damaged_and_missing_files_are_refused(folder):
    vectors = next(folder.glob("vectors-*"))
    vectors.write_bytes(vectors.read_bytes()[:90])
    with pytest.raises(ManifestError, match=r"holds a damaged index .* Build it again"):
        load_index(folder)
    vectors.unlink()
    with pytest.raises(ManifestError, match=r"is incomplete: vectors-.* is missing"):
        load_index(folder)


def test_no_file_outside_the_folder_is_opened(folder, tmp_path):
    files = json.loads((folder / "manifest.json").read_text())["files"]
    outside = tmp_path / files["vectors"]
    (folder / files["vectors"]).rename(outside)
    for name in (f"../{files['vectors']}", str(outside), "manifest.json", 3):
        change(folder, files={**files, "vectors": name})
        with pytest.raises(
            UnsafeModelError, match=r"must name files of its own folder, got .* for its vectors\. Do not"
        ):
            load_index(folder)
    (folder / files["vectors"]).symlink_to(outside)
    change(folder, files=files)
    with pytest.raises(UnsafeModelError, match="must name files of its own folder"):
        load_index(folder)
    (folder / "manifest.json").rename(tmp_path / "elsewhere.json")
    (folder / "manifest.json").symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(UnsafeModelError, match="must be a file of this folder, and is a link"):
        load_index(folder)
