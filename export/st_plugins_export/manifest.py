"""What an export says about itself, each entry checked as it is read. Opens no file.

This file needs neither torch nor numpy.
"""

from dataclasses import dataclass, field, replace
from typing import Any, Self

from st_plugins.errors import ManifestError, PrecisionError
from st_plugins_export.entries import (
    MANIFEST_FILE,
    ExportedExit,
    ExportedSize,
    Probe,
    expect,
    expect_keys,
    integers,
    parse_exit,
    parse_probe,
    parse_size,
)

# What the first output holds, see ``first_output.py``.
LAYOUTS = ("portable", "tokens")


@dataclass(frozen=True)
class Manifest:
    """All that the folder says about itself.

    Args:
        sizes: The graphs, the full one in float32 first.
        files: SHA-256 of every file but the manifest, by its name with forward slashes.
        inputs: Names of the tensors every graph takes, in order.
        prompts: By name, as in sentence-transformers.
        default_prompt_name: The prompt ``encode`` uses when none is given, or None.
        include_prompt: Whether pooling covers the prompt.
        max_seq_length: Tokens after which texts are cut, or None for no limit.
        opset: ONNX opset of the graphs.
        tolerance: Largest difference from torch that the export allowed.
        libraries: Versions that wrote the folder.
        probes: Texts to check any other reader with.
        exits: The graphs in which texts leave at layers of their own.
        layout: What the first output holds, see :func:`~st_plugins_export.export_onnx`.
        external_data: The file with the weights of a graph, by the graph's name, where they lie beside it.
        reached: What the check of the export found, by file: largest difference, cosines, alone against in a batch.
        special_ids: Special tokens of the tokenizer, where pooling leaves out a prompt whose tokens the mask marks, see
            ``prompt_marks.py``. None: where it covers prompts, or the graphs know no marks, as in early releases.
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
    reached: dict[str, dict[str, float]] = field(default_factory=dict)
    special_ids: tuple[int, ...] | None = None

    @property
    def full(self) -> ExportedSize:
        """The graph of the full size."""
        return next(size for size in self.sizes if size.is_full)

    @property
    def precisions(self) -> tuple[str, ...]:
        """Those that every graph was written in."""
        return tuple(size.precision for size in self.sizes if size.is_full)

    def at(self, precision: str) -> Self:
        """The same export as if it had no other precision.

        Raises:
            PrecisionError: If it does not have this one. Lists those it has.
        """
        if precision not in self.precisions:
            raise PrecisionError(
                f"precision must be one of those exported, {list(self.precisions)}, got {precision!r}. "
                "Export it as well: export_onnx(model, folder, precisions=[...])."
            )
        sizes = tuple(size for size in self.sizes if size.precision == precision)
        exits = tuple(exported for exported in self.exits if exported.precision == precision)
        return replace(self, sizes=sizes, exits=exits)

    @classmethod
    def from_json(cls, entries: dict[str, Any]) -> Self:
        """Build one from parsed JSON, checking every type a reader relies on."""
        entries = {"exits": [], "layout": "tokens", "external_data": {}, "reached": {}, "special_ids": None, **entries}
        expect_keys(cls, entries)
        sizes = tuple(parse_size(entry) for entry in expect(entries["sizes"], list, "sizes"))
        full = [size.precision for size in sizes if size.is_full]
        if not full or len(full) != len(set(full)):
            raise ManifestError(
                f"{MANIFEST_FILE} must name exactly one full size in each precision. Export the model again."
            )
        for name in ("files", "prompts", "libraries", "external_data", "reached"):
            for value in expect(entries[name], dict, name).values():
                expect(value, dict if name == "reached" else str, name)
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
        special = None if entries["special_ids"] is None else integers(entries, "special_ids")
        parsed = {"sizes": sizes, "inputs": inputs, "probes": probes, "exits": exits, "special_ids": special}
        return cls(**{**entries, **parsed})
