"""An index as a folder: a manifest, vectors that are mapped into memory, documents that are read on demand. No pickle.

``manifest.json`` names the files that belong to it, and is replaced last and at once. Whatever happens to a process
that saves, the folder holds the old index whole or the new one. One process at a time may save into a folder.
"""

import json
import os
import re
import uuid
from pathlib import Path
from typing import Any

import numpy as np
from langchain_core.version import VERSION

import st_plugins
from langchain_st_plugins.index import ElasticIndex
from langchain_st_plugins.index_states import IndexState
from langchain_st_plugins.stored_documents import StoredDocuments, write_documents
from st_plugins.errors import ManifestError, UnsafeModelError

MANIFEST = "manifest.json"
FORMAT = "langchain_st_plugins index 1"
_KINDS = {"vectors": "npy", "ends": "npy", "documents": "jsonl"}
_NAME = re.compile(r"(vectors|ends|documents)-[0-9a-f]{32}\.(npy|jsonl)")
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
    files = {kind: f"{kind}-{mark}.{suffix}" for kind, suffix in _KINDS.items()}
    try:
        documents = state.documents[: state.count]
        np.save(folder / files["ends"], write_documents(folder / files["documents"], documents), allow_pickle=False)
        np.save(folder / files["vectors"], state.vectors, allow_pickle=False)
        for name in files.values():
            _to_disk(folder / name)
    except BaseException:
        _drop(folder, set(files.values()))
        raise
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
        "libraries": {"st-plugins": st_plugins.__version__, "langchain-core": VERSION, "numpy": np.__version__},
    }
    partial = folder / f"{MANIFEST}.{mark}"
    partial.write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    _to_disk(partial)
    os.replace(partial, folder / MANIFEST)
    _to_disk(folder)
    # What the old manifest named, and what saves left behind that did not come to their end.
    _drop(folder, {file.name for file in folder.iterdir() if _NAME.fullmatch(file.name)} - set(files.values()))
    _drop(folder, {file.name for file in folder.glob(f"{MANIFEST}.*")})


def load_index(folder: Path) -> tuple[ElasticIndex, np.ndarray]:
    """Open a saved index. The vectors stay in their file, mapped read-only; a later change copies them into memory.

    Args:
        folder: What :func:`save_index` wrote.

    Returns:
        tuple: The index, and its canary.

    Raises:
        FileNotFoundError: If there is no index in the folder.
        ManifestError: If it is incomplete, damaged, or of another format.
        UnsafeModelError: If it leads out of the folder.
    """
    manifest = _read_manifest(folder)
    files = {kind: _checked(folder, kind, name) for kind, name in manifest["files"].items()}
    try:
        vectors = np.load(files["vectors"], mmap_mode="r" if manifest["documents"] else None, allow_pickle=False)
        ends = np.load(files["ends"], allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise ManifestError(f"{folder} holds a damaged index ({error}). Build it again.") from error
    expected = (manifest["documents"], manifest["width"])
    if vectors.shape != expected or vectors.dtype != np.float32 or ends.shape != expected[:1] or ends.dtype != np.int64:
        raise ManifestError(
            f"{folder} must hold float32 vectors {expected} and as many documents, it holds {vectors.dtype} "
            f"{vectors.shape} and {ends.dtype} {ends.shape}. Build the index again."
        )
    index = ElasticIndex(
        fingerprint=manifest["fingerprint"], layer=manifest["layer"], dim=manifest["dim"], exit=manifest["exit"]
    )
    index.replace(IndexState.of(StoredDocuments(files["documents"], ends), vectors.view(np.ndarray)))
    return index, np.array(manifest["canary"], dtype=np.float32)


def _read_manifest(folder: Path) -> dict[str, Any]:
    file = folder / MANIFEST
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{folder} must hold a saved index, but has no {MANIFEST}. Write one: store.save_local(folder)."
        ) from None
    except ValueError as error:
        raise ManifestError(f"{file} is damaged ({error}). Build the index again.") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        found = manifest.get("format") if isinstance(manifest, dict) else type(manifest).__name__
        raise ManifestError(f"{file} must be of the format {FORMAT!r}, it is {found!r}. Build the index again.")
    wrong = [name for name, kind in _FIELDS.items() if not isinstance(manifest.get(name, ...), kind)]
    if wrong or set(manifest["files"]) != set(_KINDS):
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
