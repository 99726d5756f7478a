"""Which files an export consists of: the manifest, and how a folder is written and read.

The manifest names every file with its SHA-256. Reading goes through :func:`read_verified` alone, which opens nothing
outside the folder and returns the very bytes it has checked. It proves that a folder is complete and as it was
exported; it does not prove who exported it.

This file needs neither torch nor numpy.
"""

import hashlib
import json
import mmap
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Self

from st_plugins.errors import ManifestError, UnsafeModelError
from st_plugins_export.entries import (
    MANIFEST_FILE,
    ExportedExit,
    ExportedSize,
    Probe,
    expect,
    expect_keys,
    parse_exit,
    parse_probe,
    parse_size,
)

FORMAT_VERSION = 1
TOKENIZER_FILE = "tokenizer.json"
# What the first output holds, see ``first_output.py``.
LAYOUTS = ("portable", "tokens")


@dataclass(frozen=True)
class Manifest:
    """All that the folder says about itself.

    Args:
        sizes: The graphs, the full one first.
        files: SHA-256 of every file but the manifest, by its name with forward slashes.
        inputs: Names of the tensors every graph takes, in order.
        prompts: By name, as in sentence-transformers.
        default_prompt_name: The prompt ``encode`` uses when none is given, or None.
        include_prompt: Whether pooling covers the prompt. The graph cannot leave it out, so False means: no prompts.
        max_seq_length: Tokens after which texts are cut, or None for no limit.
        opset: ONNX opset of the graphs.
        tolerance: Largest difference from torch that the export allowed.
        libraries: Versions that wrote the folder.
        probes: Texts to check any other reader with.
        exits: The graphs in which texts leave at layers of their own.
        layout: What the first output holds, see :func:`~st_plugins_export.export_onnx`.
        external_data: The file with the weights of a graph, by the graph's name, where they lie beside it.
    """

    sizes: tuple[ExportedSize, ...]
    files: dict[str, str]
    inputs: tuple[str, ...]
    prompts: dict[str, str]
    default_prompt_name: str | None
    include_prompt: bool
    max_seq_length: int | None
    opset: int
    tolerance: float
    libraries: dict[str, str]
    probes: tuple[Probe, ...]
    exits: tuple[ExportedExit, ...] = ()
    layout: str = "tokens"
    external_data: dict[str, str] = field(default_factory=dict)

    @property
    def full(self) -> ExportedSize:
        """The graph of the full size."""
        return next(size for size in self.sizes if size.is_full)

    @classmethod
    def from_json(cls, entries: dict[str, Any]) -> Self:
        """Build one from parsed JSON, checking every type a reader relies on."""
        entries = {"exits": [], "layout": "tokens", "external_data": {}, **entries}
        expect_keys(cls, entries)
        sizes = tuple(parse_size(entry) for entry in expect(entries["sizes"], list, "sizes"))
        if [size.is_full for size in sizes].count(True) != 1:
            raise ManifestError(f"{MANIFEST_FILE} must name exactly one full size. Export the model again.")
        for name in ("files", "prompts", "libraries", "external_data"):
            for value in expect(entries[name], dict, name).values():
                expect(value, str, name)
        expect(entries["default_prompt_name"], (str, type(None)), "default_prompt_name")
        if expect(entries["layout"], str, "layout") not in LAYOUTS:
            raise ManifestError(
                f"{MANIFEST_FILE} must have one of {LAYOUTS} for 'layout', got {entries['layout']!r}. "
                "Open it with the st-plugins that wrote it."
            )
        expect(entries["include_prompt"], bool, "include_prompt")
        expect(entries["opset"], int, "opset")
        expect(entries["tolerance"], (int, float), "tolerance")
        expect(entries["max_seq_length"], (int, type(None)), "max_seq_length")
        inputs = tuple(expect(name, str, "inputs") for name in expect(entries["inputs"], list, "inputs"))
        probes = tuple(parse_probe(entry) for entry in expect(entries["probes"], list, "probes"))
        exits = tuple(parse_exit(entry) for entry in expect(entries["exits"], list, "exits"))
        return cls(**{**entries, "sizes": sizes, "inputs": inputs, "probes": probes, "exits": exits})


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
    files = {name: _sha256_of(folder / name) for name in file_names(folder)}
    manifest = Manifest(files=files, **entries)
    content = {"format_version": FORMAT_VERSION, **asdict(manifest)}
    for name in ("exits", "external_data"):
        if not content[name]:
            del content[name]  # then a release that does not know them can read it
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
    content = checked_path(folder, MANIFEST_FILE).read_bytes()
    try:
        entries = json.loads(content)
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
        if path.is_symlink():
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


def _sha256_of(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()  # a part at a time
