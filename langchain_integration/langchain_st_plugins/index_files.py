"""An index as a folder: a manifest, vectors and a graph mapped into memory, documents read on demand. No pickle.

``manifest.json`` names the files that belong to it, and is replaced last and at once. Whatever happens to a process
that saves, the folder holds the old index whole or the new one. One process at a time may save into a folder.
"""

import hashlib
import json
import mmap
import os
import re
import uuid
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
from langchain_core.version import VERSION

import st_plugins
from langchain_st_plugins.graphs import Graph
from langchain_st_plugins.index import ElasticIndex
from langchain_st_plugins.index_states import IndexState
from langchain_st_plugins.stored_documents import StoredDocuments, write_documents
from st_plugins.errors import ManifestError, UnsafeModelError

MANIFEST = "manifest.json"
FORMAT = "langchain_st_plugins index 1"
_KINDS = {"vectors": "npy", "ends": "npy", "documents": "jsonl"}
# With a graph also its nodes, and the row of each.
_GRAPH_KINDS = {"graph": "usearch", "nodes": "npy"}
_NAME = re.compile(r"(vectors|ends|documents|graph|nodes)-[0-9a-f]{32}\.(npy|jsonl|usearch)")
# Of a manifest, which has a few kB.
_MOST_BYTES = 64 * 2**20
# More rows, or coordinates, than any machine holds.
_MOST = 2**40
# What is written about itself beside the file names.
_FIELDS: dict[str, Any] = {
    "format": str,
    "metric": str,
    "documents": int,
    "width": int,
    "fingerprint": str,
    "layer": (int, type(None)),
    "dim": (int, type(None)),
    "exit": (str, float, type(None)),
    "canary": list,
    "files": dict,
    "graph": (dict, type(None)),
    "libraries": dict,
}


def save_index(index: ElasticIndex, folder: Path, *, canary: np.ndarray) -> None:
    """Write an index; one that is in the folder already is replaced at the last moment.

    Args:
        index: The index.
        folder: Made if it does not exist.
        canary: What the embeddings of the index make of the canary's text.

    Raises:
        TypeError: If JSON cannot hold some document. The folder is as it was.

    Example:
        >>> index = ElasticIndex(fingerprint="of the model")
        >>> save_index(index, Path("saved"), canary=np.zeros(0))
        >>> load_index(Path("saved"))[0]
        ElasticIndex(0 documents, layer=None, dim=None, width=None)
    """
    folder.mkdir(parents=True, exist_ok=True)
    state, mark = index.state, uuid.uuid4().hex
    kinds = _KINDS if state.graph is None else _KINDS | _GRAPH_KINDS
    files = {kind: f"{kind}-{mark}.{suffix}" for kind, suffix in kinds.items()}
    partial = folder / f"{MANIFEST}.{mark}"
    try:
        manifest = {
            "format": FORMAT,
            "metric": "cosine",
            "documents": state.count,
            "width": state.vectors.shape[1],
            "fingerprint": index.fingerprint,
            "layer": index.layer,
            "dim": index.dim,
            "exit": index.exit,
            "canary": [float(value) for value in canary],
            "files": files,
            "graph": _write_state(state, folder, files),
            "libraries": {"st-plugins": st_plugins.__version__, "langchain-core": VERSION, "numpy": np.__version__},
        }
        partial.write_text(json.dumps(manifest, indent=1), encoding="utf-8")
        for name in (*files.values(), partial.name):
            _to_disk(folder / name)
        os.replace(partial, folder / MANIFEST)
    except BaseException:
        _drop(folder, {*files.values(), partial.name})
        raise
    _to_disk(folder)
    # What the old manifest named, and what saves left behind that did not come to their end.
    _drop(folder, {file.name for file in folder.iterdir() if _NAME.fullmatch(file.name)} - set(files.values()))
    _drop(folder, {file.name for file in folder.glob(f"{MANIFEST}.*")})


def load_index(folder: Path, *, with_graph: bool = False) -> tuple[ElasticIndex, np.ndarray]:
    """Open a saved index. The vectors stay in their file, mapped read-only; a later change copies them into memory.

    Args:
        folder: What :func:`save_index` wrote.
        with_graph: Also open its graph, if it has one. Its sha256 is checked before, for usearch believes what it
            reads; that tells damage, not malice, so leave it out for a folder of somebody you would not trust.

    Returns:
        tuple: The index, and its canary.

    Raises:
        FileNotFoundError: If there is no index in the folder.
        ManifestError: If it is incomplete, damaged, or of another format.
        UnsafeModelError: If it leads out of the folder.
    """
    manifest = _read_manifest(folder)
    files = {kind: _checked(folder, kind, name) for kind, name in manifest["files"].items()}
    expected = (manifest["documents"], manifest["width"])
    vectors, ends = np.zeros((0, expected[1]), np.float32), np.zeros(0, np.int64)
    if expected[0]:  # files of no rows cannot be mapped
        vectors, ends = _array(files["vectors"]), _array(files["ends"])
    if vectors.shape != expected or vectors.dtype != np.float32 or ends.shape != expected[:1] or ends.dtype != np.int64:
        raise ManifestError(
            f"{folder} must hold float32 vectors {expected} and as many documents, it holds {vectors.dtype} "
            f"{vectors.shape} and {ends.dtype} {ends.shape}. Build the index again."
        )
    index = ElasticIndex(
        fingerprint=manifest["fingerprint"], layer=manifest["layer"], dim=manifest["dim"], exit=manifest["exit"]
    )
    state = IndexState.of(StoredDocuments(files["documents"], ends), vectors.view(np.ndarray))
    index.replace(state.with_graph(_opened_graph(manifest, files) if with_graph else None))
    return index, np.array(manifest["canary"], dtype=np.float32)


def _read_manifest(folder: Path) -> dict[str, Any]:
    file = folder / MANIFEST
    if file.is_symlink():
        raise UnsafeModelError(f"{file} must be a file of this folder, and is a link. Do not open this index.")
    if not file.is_file():
        raise FileNotFoundError(
            f"{folder} must hold a saved index, but has no {MANIFEST}. Write one: store.save_local(folder)."
        )
    if file.stat().st_size > _MOST_BYTES:
        raise ManifestError(f"{file} may have {_MOST_BYTES >> 20} MiB and has more. Do not open this index.")
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"{file} is damaged ({error}). Build the index again.") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        found = manifest.get("format") if isinstance(manifest, dict) else type(manifest).__name__
        raise ManifestError(f"{file} must be of the format {FORMAT!r}, it is {found!r}. Build the index again.")
    wrong = [name for name, kind in _FIELDS.items() if not isinstance(manifest.get(name, ...), kind)]
    wrong += [name for name in _FIELDS if isinstance(manifest.get(name), bool)]
    if not wrong:
        wrong = [name for name in ("documents", "width") if not 0 <= manifest[name] < _MOST]
        wrong += [] if all(isinstance(value, int | float) for value in manifest["canary"]) else ["canary"]
    kinds = _KINDS if manifest.get("graph") is None else _KINDS | _GRAPH_KINDS
    if wrong or set(manifest["files"]) != set(kinds):
        raise ManifestError(f"{file} is damaged at {wrong or ['files']}. Build the index again.")
    return manifest


def _checked(folder: Path, kind: str, name: Any) -> Path:
    if not isinstance(name, str) or not _NAME.fullmatch(name) or (folder / name).is_symlink():
        raise UnsafeModelError(
            f"{folder / MANIFEST} must name files of its own folder, got {name!r} for its {kind}. "
            "Do not open this index."
        )
    if not (folder / name).is_file():
        raise ManifestError(f"{folder} is incomplete: {name} is missing. Build the index again.")
    return folder / name


def _opened_graph(manifest: dict[str, Any], files: dict[str, Path]) -> Graph | None:
    if manifest["graph"] is None:
        return None
    try:
        content = _mapped(files["graph"])
    except (ValueError, OSError) as error:
        raise ManifestError(f"{files['graph'].parent} holds a damaged graph ({error}). Build it again.") from error
    if _digest(content) != manifest["graph"].get("sha256"):
        raise ManifestError(f"{files['graph']} must be what was saved, but its sha256 differs. Build the index again.")
    rows = np.array(_array(files["nodes"]))
    if rows.ndim != 1 or rows.dtype != np.int64:
        raise ManifestError(
            f"{files['nodes']} must hold int64 (n,), it holds {rows.dtype} {rows.shape}. Build it again."
        )
    return Graph.opened(content, rows, dim=manifest["graph"].get("dim"), count=manifest["documents"])


def _write_state(state: IndexState, folder: Path, files: dict[str, str]) -> dict[str, Any] | None:
    """Write everything but the manifest, and return what that says about the graph."""
    ends = write_documents(folder / files["documents"], state.documents[: state.count])
    np.save(folder / files["ends"], ends, allow_pickle=False)
    np.save(folder / files["vectors"], state.vectors, allow_pickle=False)
    if state.graph is None:
        return None
    np.save(folder / files["nodes"], state.graph.rows, allow_pickle=False)
    state.graph.save(folder / files["graph"])
    return {"dim": state.graph.dim, "sha256": _digest(_mapped(folder / files["graph"]))}


def _array(file: Path) -> np.ndarray:
    """Mapped, so that a damaged header cannot ask for more memory than the file has."""
    try:
        return np.load(file, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError, OverflowError, TokenError) as error:  # the last from numpy's old headers
        raise ManifestError(f"{file.parent} holds a damaged index ({file.name}: {error}). Build it again.") from error


def _mapped(file: Path) -> Any:
    with file.open("rb") as content:
        return mmap.mmap(content.fileno(), 0, access=mmap.ACCESS_READ)


def _digest(content: Any) -> str:
    return hashlib.sha256(content).hexdigest()


def _to_disk(path: Path) -> None:
    """A rename must not get to the disk before what it renames."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _drop(folder: Path, names: set[str]) -> None:
    for name in names:
        (folder / name).unlink(missing_ok=True)
