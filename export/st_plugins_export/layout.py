"""Which files an export consists of, and how its manifest and the others are written and read.

The manifest names every file with its SHA-256. Reading goes through :func:`read_verified` alone, which opens nothing
outside the folder and returns the very bytes it has checked. It proves that a folder is complete and as it was
exported; it does not prove who exported it.

This file needs neither torch nor numpy.
"""

import hashlib
import json
import mmap
import os
from dataclasses import asdict, replace
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from st_plugins.errors import ManifestError, UnsafeModelError
from st_plugins_export.entries import MANIFEST_FILE, USUAL, expect
from st_plugins_export.manifest import Manifest

FORMAT_VERSION = 1
TOKENIZER_FILE = "tokenizer.json"
REPORT_FILE = "report.json"
# Of a manifest. A real one has some kB for each probe.
_MOST_BYTES = 64 * 2**20


def file_in(name: str, suffix: str) -> str:
    """Where a graph lies in another precision: ``onnx/model.onnx`` with ``_fp16`` is ``onnx/model_fp16.onnx``."""
    return f"{name.removesuffix('.onnx')}{suffix}.onnx"


def graph_file(layer: int, dim: int, *, is_full: bool) -> str:
    """Where the graph of a size lies; servers look for the name of the full one."""
    return "onnx/model.onnx" if is_full else f"onnx/model_L{layer}_D{dim}.onnx"


def exit_file(name: str | None) -> str:
    """Where the graph of an exit policy lies, or with None the one whose caller says where each text leaves."""
    return "onnx/model_layer_per_text.onnx" if name is None else f"onnx/model_exit_{name}.onnx"


def write_manifest(folder: Path, **entries: Any) -> Manifest:
    """Hash every file of a finished folder and write the manifest beside them.

    Args:
        folder: Holds everything but the manifest.
        **entries: What :class:`Manifest` holds, except ``files``.

    Returns:
        Manifest: What was written.
    """
    files = {name: sha256_of(folder / name) for name in file_names(folder)}
    return _save(folder, Manifest(files=files, **entries))


def add_file(folder: Path, manifest: Manifest, name: str, content: str, **entries: Any) -> Manifest:
    """Write one more text file into an export, and its manifest again.

    Args:
        folder: The export.
        manifest: Read from the folder, or just written.
        name: Of the file.
        content: Of the file.
        **entries: What changes in the manifest besides.

    Returns:
        Manifest: What was written.
    """
    (folder / name).write_text(content, encoding="utf-8")
    files = {**manifest.files, name: sha256_of(folder / name)}
    return _save(folder, replace(manifest, files=files, **entries))


def _save(folder: Path, manifest: Manifest) -> Manifest:
    content = {"format_version": FORMAT_VERSION, **asdict(manifest)}
    for name in ("exits", "external_data", "reached"):
        if not content[name]:
            del content[name]  # then a release that does not know them can read it
    if manifest.special_ids is None:
        del content["special_ids"]  # likewise
    for entry in (*content["sizes"], *content.get("exits", ())):
        for name, usual in USUAL.items():
            if entry[name] == usual:
                del entry[name]  # likewise
    text = json.dumps(content, indent=2, ensure_ascii=False)
    (folder / MANIFEST_FILE).write_text(text + "\n", encoding="utf-8")
    return manifest


def read_manifest(folder: Path) -> Manifest:
    """Read and check the manifest of a folder; no other file is opened.

    Args:
        folder: The export.

    Returns:
        Manifest: With sound types and names.

    Raises:
        ManifestError: If it is missing, damaged or of another format version.
        UnsafeModelError: If it is a link, or names a file outside the folder.

    Example:
        >>> read_manifest(Path("minilm-onnx")).full.dim
        384
    """
    entries = read_entries(folder)
    if "routes" in entries:
        raise ManifestError(
            f"{folder} is the export of a Router, which holds one export for each route, {list(entries['routes'])}. "
            "Open one of those."
        )
    return Manifest.from_json(entries)


def read_entries(folder: Path) -> dict[str, Any]:
    """The parsed manifest of a folder, of this format version.

    Raises:
        ManifestError: If it is missing, damaged or of another format version.
        UnsafeModelError: If it is a link.
    """
    if not folder.is_dir():
        raise ManifestError(f"{folder} must be a folder that export_onnx wrote, and there is no such folder.")
    path = checked_path(folder, MANIFEST_FILE)
    if path.stat().st_size > _MOST_BYTES:
        raise ManifestError(f"{path} may have {_MOST_BYTES >> 20} MiB and has more. Do not open this folder.")
    try:
        entries = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"{folder / MANIFEST_FILE} is not valid JSON ({error}). Export the model again.") from None
    version = expect(entries, dict, "manifest").pop("format_version", None)
    if version != FORMAT_VERSION:
        raise ManifestError(
            f"{folder / MANIFEST_FILE} must have format version {FORMAT_VERSION}, got {version!r}. "
            "Open it with the st-plugins that wrote it, or export the model again."
        )
    return entries


def read_verified(folder: Path, name: str, manifest: Manifest) -> bytes:
    """The content of one file, after its SHA-256 was compared with the manifest.

    Args:
        folder: The export.
        name: As in the manifest.
        manifest: Read from the same folder.

    Returns:
        bytes: Use these; opening the file a second time could give other ones.

    Raises:
        ManifestError: If the file is not in the manifest, missing, or changed.
        UnsafeModelError: If it is, or lies behind, a symbolic or hard link, or outside the folder.
    """
    _check_listed(name, manifest)
    content = checked_path(folder, name).read_bytes()
    _check_digest(folder, name, manifest, content)
    return content


def map_verified(folder: Path, name: str, manifest: Manifest) -> mmap.mmap | bytes:
    """:func:`read_verified` for a large file, which is mapped into memory and not read at once.

    Args:
        folder: The export.
        name: As in the manifest.
        manifest: Read from the same folder.

    Returns:
        mmap.mmap: Use this; or b"" for an empty file, which cannot be mapped.

    Raises:
        ManifestError, UnsafeModelError: As :func:`read_verified`.
    """
    _check_listed(name, manifest)
    path = checked_path(folder, name)
    with path.open("rb") as file:
        is_empty = path.stat().st_size == 0
        content = b"" if is_empty else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    _check_digest(folder, name, manifest, content)
    return content


def _check_listed(name: str, manifest: Manifest) -> None:
    if name not in manifest.files:
        raise ManifestError(f"{MANIFEST_FILE} must list {name} under 'files', and does not. Export the model again.")


def _check_digest(folder: Path, name: str, manifest: Manifest, content: bytes | mmap.mmap) -> None:
    if hashlib.sha256(content).hexdigest() != manifest.files[name]:
        raise ManifestError(
            f"{folder / name} is not the file that was exported (its SHA-256 differs from {MANIFEST_FILE}). "
            "Copy the folder again, or export the model again."
        )


def checked_path(folder: Path, name: str) -> Path:
    """The path of a file inside the folder that no link leads to.

    Raises:
        ManifestError: If there is no such file.
        UnsafeModelError: If it is, or lies behind, a symbolic or hard link, or outside the folder.
    """
    parts = PurePosixPath(name).parts
    is_windows_path = bool(PureWindowsPath(name).drive or "\\" in name)
    if not parts or PurePosixPath(name).is_absolute() or ".." in parts or "\0" in name or is_windows_path:
        raise UnsafeModelError(f"Files of an export must lie inside its folder, got {name!r}. Export the model again.")
    path = folder
    for part in parts:
        path = path / part
        try:
            is_link = path.is_symlink()
        except OSError as error:  # a name too long for any file
            raise ManifestError(f"{name!r:.60} names no file ({error.strerror}). Export the model again.") from None
        if is_link:
            raise UnsafeModelError(f"{path} is a symbolic link. Copy the export as plain files (cp -rL).")
    if not path.is_file():
        raise ManifestError(f"{path} is missing. Copy the folder again, or export the model again.")
    if path.stat().st_nlink > 1:
        raise UnsafeModelError(f"{path} is a hard link to another file. Copy the export as plain files (cp -r).")
    return path


def file_names(folder: Path) -> list[str]:
    """Every file below a folder, as the manifest spells it."""
    return sorted(
        (Path(parent) / name).relative_to(folder).as_posix() for parent, _, names in os.walk(folder) for name in names
    )


def sha256_of(file: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()  # a part at a time
