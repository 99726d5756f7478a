"""What an export, or a check of one, found: one row per graph."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class SizeReport:
    """One graph and how far it is from torch.

    Args:
        layer: Blocks it runs.
        dim: Width of its vectors.
        file: Where it lies in the folder.
        bytes: Size of that file.
        nodes: Operators in the graph.
        max_difference: Largest absolute difference of any coordinate from torch, over all probes.
        seconds: What it took to write (if it was written) and to check.
    """

    layer: int
    dim: int
    file: str
    bytes: int
    nodes: int
    max_difference: float
    seconds: float


@dataclass(frozen=True)
class ExitReport:
    """One graph in which texts leave at layers of their own, and how far it is from torch.

    Args:
        name: The exit policy, or None where the caller says at which layer each text leaves.
        layers: Where texts leave.
        dim: Width of its vectors.
        file: Where it lies in the folder.
        bytes: Size of that file.
        nodes: Operators in the graph, those inside of others included.
        max_difference: Largest absolute difference of any coordinate from torch, over all probes.
        seconds: What it took to write (if it was written) and to check.
        borderline: Probes that left at another layer than in torch, as rounding carried their score over the threshold.
    """

    name: str | None
    layers: tuple[int, ...]
    dim: int
    file: str
    bytes: int
    nodes: int
    max_difference: float
    seconds: float
    borderline: int = 0


@dataclass(frozen=True)
class ExportReport:
    """The graphs of one folder. ``str(report)`` is a table.

    Args:
        folder: The export.
        tolerance: Largest difference that was allowed.
        sizes: One report per size, the full one first.
        exits: One report per graph with exits.

    Example:
        >>> size = SizeReport(6, 384, "onnx/model.onnx", 90_396_762, 536, 1.8e-07, 3.94)
        >>> print(ExportReport(Path("minilm-onnx"), 1e-05, (size,)))
        minilm-onnx: 1 size, largest difference from torch 1.8e-07 (allowed 1e-05)
        layer  dim  file             MB  nodes  max difference  seconds
            6  384  onnx/model.onnx  90    536         1.8e-07      3.9
    """

    folder: Path
    tolerance: float
    sizes: tuple[SizeReport, ...]
    exits: tuple[ExitReport, ...] = ()

    @property
    def max_difference(self) -> float:
        """The worst over all graphs."""
        return max(graph.max_difference for graph in self._graphs)

    @property
    def _graphs(self) -> list[SizeReport | ExitReport]:
        return [*self.sizes, *self.exits]

    def __str__(self) -> str:
        rows = [("layer", "dim", "file", "MB", "nodes", "max difference", "seconds")]
        for graph in self._graphs:
            layers = str(graph.layer) if isinstance(graph, SizeReport) else f"{graph.layers[0]}-{graph.layers[-1]}"
            megabytes = f"{graph.bytes / 1e6:.{0 if graph.bytes > 1e7 else 2}f}"
            difference, seconds = f"{graph.max_difference:.1e}", f"{graph.seconds:.1f}"
            rows.append((layers, str(graph.dim), graph.file, megabytes, str(graph.nodes), difference, seconds))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(
                cell.ljust(width) if column == 2 else cell.rjust(width)  # names to the left, numbers to the right
                for column, (cell, width) in enumerate(zip(row, widths, strict=True))
            )
            for row in rows
        ]
        count = f"{len(self.sizes)} size{'s' if len(self.sizes) > 1 else ''}"
        if self.exits:
            count += f" and {len(self.exits)} graph{'s' if len(self.exits) > 1 else ''} with exits"
        worst = f"largest difference from torch {self.max_difference:.1e} (allowed {self.tolerance:.0e})"
        return "\n".join([f"{self.folder}: {count}, {worst}", *lines])
