"""The entries of a manifest: sizes, exits and probes, each checked as it is read. Opens no file.

This file needs neither torch nor numpy.
"""

from dataclasses import dataclass, fields
from typing import Any

from st_plugins.errors import ManifestError

MANIFEST_FILE = "manifest.json"
# Entries that are left out where they are so: releases that do not know them can read such a manifest.
USUAL = {"precision": "fp32", "padded_because": ""}


@dataclass(frozen=True)
class ExportedSize:
    """One graph of an export.

    Args:
        layer: Blocks it runs, counted from 1.
        dim: Width of its vectors.
        is_full: Whether it is the full size of the model.
        file: Where it lies in the folder.
        nodes: Operators in the graph.
        fingerprint: Identity of its vectors, see :func:`st_plugins.fingerprint`.
        trained_dims: Smaller dims its vectors may be cut to.
        precision: In which it computes.
        padded_because: Why it computes padding as well as tokens; empty if it does not.

    Example:
        >>> ExportedSize(6, 384, True, "onnx/model.onnx", 536, "9f…", (128, 256)).file
        'onnx/model.onnx'
    """

    layer: int
    dim: int
    is_full: bool
    file: str
    nodes: int
    fingerprint: str
    trained_dims: tuple[int, ...] = ()
    precision: str = "fp32"
    padded_because: str = ""


@dataclass(frozen=True)
class ExportedExit:
    """One graph of an export in which texts leave at layers of their own.

    Args:
        name: The policy, or None where the caller says at which layer each text leaves.
        layers: Where texts leave, ascending.
        dim: Width of its vectors.
        file: Where it lies in the folder.
        nodes: Operators in the graph, those inside of others included.
        fingerprint: Identity of its vectors, see :func:`st_plugins.fingerprint`; None without a policy.
        trained_dims: Smaller dims its vectors may be cut to, whatever the layer.
        policy: What ``ExitPolicy.as_dict`` says, its certificate included; None without a policy.
        precision: In which it computes.
        padded_because: As in :class:`ExportedSize`, and of which stages.

    Example:
        >>> ExportedExit(None, (2, 4, 6), 384, "onnx/model_layer_per_text.onnx", 764, None).layers
        (2, 4, 6)
    """

    name: str | None
    layers: tuple[int, ...]
    dim: int
    file: str
    nodes: int
    fingerprint: str | None
    trained_dims: tuple[int, ...] = ()
    policy: dict[str, Any] | None = None
    precision: str = "fp32"
    padded_because: str = ""


@dataclass(frozen=True)
class Probe:
    """A text and the vector that torch gave it at full size.

    Args:
        text: Without any prompt.
        embedding: ``dim`` numbers.
    """

    text: str
    embedding: tuple[float, ...]


def parse_size(entry: Any) -> ExportedSize:
    """The size that an entry of parsed JSON describes.

    Raises:
        ManifestError: If it describes none.
    """
    entry = _with_defaults(entry)
    expect_keys(ExportedSize, entry)
    for name, kind in (("layer", int), ("dim", int), ("is_full", bool), ("file", str), ("fingerprint", str)):
        expect(entry[name], kind, name)
    return ExportedSize(**{**entry, "trained_dims": integers(entry, "trained_dims")})


def parse_exit(entry: Any) -> ExportedExit:
    """The exits that an entry of parsed JSON describes.

    Raises:
        ManifestError: If it describes none.
    """
    entry = _with_defaults(entry)
    expect_keys(ExportedExit, entry)
    expect(entry["dim"], int, "dim")
    expect(entry["file"], str, "file")
    for name in ("name", "fingerprint"):
        expect(entry[name], (str, type(None)), name)
    expect(entry["policy"], (dict, type(None)), "policy")
    dims, layers = integers(entry, "trained_dims"), integers(entry, "layers")
    return ExportedExit(**{**entry, "trained_dims": dims, "layers": layers})


def parse_probe(entry: Any) -> Probe:
    """The probe that an entry of parsed JSON describes.

    Raises:
        ManifestError: If it describes none.
    """
    expect_keys(Probe, entry)
    return Probe(expect(entry["text"], str, "text"), tuple(expect(entry["embedding"], list, "embedding")))


def expect_keys(kind: type, entries: Any) -> None:
    """Raise :class:`~st_plugins.errors.ManifestError` unless ``entries`` has the fields of a class, and no others."""
    expected = {field.name for field in fields(kind)}
    found = set(expect(entries, dict, kind.__name__))
    if found != expected:
        raise ManifestError(
            f"{MANIFEST_FILE} must have exactly the entries {sorted(expected)} for {kind.__name__}, "
            f"got {sorted(found)}. Export the model again."
        )


def expect(value: Any, kind: Any, name: str) -> Any:
    """The value, or a :class:`~st_plugins.errors.ManifestError` if it is not of this kind."""
    if not isinstance(value, kind):
        raise ManifestError(f"{MANIFEST_FILE} has {value!r} for {name!r}, which is no {kind}. Export the model again.")
    return value


def _with_defaults(entry: Any) -> dict[str, Any]:
    """The entry with what is not written where it is usual."""
    entry = {**USUAL, **expect(entry, dict, "entry")}
    for name in USUAL:
        expect(entry[name], str, name)
    return entry


def integers(entry: dict[str, Any], name: str) -> tuple[int, ...]:
    """The list of integers under a name, or a :class:`~st_plugins.errors.ManifestError`."""
    return tuple(expect(value, int, name) for value in expect(entry[name], list, name))
