"""What an export, or a check of one, found: one row per size."""

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
class ExportReport:
    """The graphs of one folder. ``str(report)`` is a table.

    Args:
        folder: The export.
        tolerance: Largest difference that was allowed.
        sizes: One report per size, the full one first.

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

    @property
    def max_difference(self) -> float:
        """The worst over all sizes."""
        return max(size.max_difference for size in self.sizes)

    def __str__(self) -> str:
        rows = [("layer", "dim", "file", "MB", "nodes", "max difference", "seconds")]
        for size in self.sizes:
            megabytes = f"{size.bytes / 1e6:.{0 if size.bytes > 1e7 else 2}f}"
            difference, seconds = f"{size.max_difference:.1e}", f"{size.seconds:.1f}"
            rows.append((str(size.layer), str(size.dim), size.file, megabytes, str(size.nodes), difference, seconds))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(
                cell.ljust(width) if column == 2 else cell.rjust(width)  # names to the left, numbers to the right
                for column, (cell, width) in enumerate(zip(row, widths, strict=True))
            )
            for row in rows
        ]
        count = f"{len(self.sizes)} size{'s' if len(self.sizes) > 1 else ''}"
        worst = f"largest difference from torch {self.max_difference:.1e} (allowed {self.tolerance:.0e})"
        return "\n".join([f"{self.folder}: {count}, {worst}", *lines])
