"""What an export, or a check of one, found: one row per graph."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from st_plugins_export.tried import Tried


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
        precision: In which it computes.
        cosine_mean: Cosine of its vectors with those of torch, on average over all probes.
        cosine_min: The same for the probe that came out worst.
        alone_difference: Most that a coordinate of a probe changes when others share its batch, as a part of the length
            of its vector.
        speed: How many times as fast as the float32 file it ran on the CPU of this machine, in a short measurement, or
            None if it was not measured.
        fallbacks: Operators that float16 would have spoiled, and that stayed float32.
        padded_because: Why the graph computes padding as well as tokens; empty if it does not.
        borderline: Probes that a module at the end rounded otherwise than the vectors of torch. Of such a module the
            figures above compare what was rounded, as far as the rounded vectors tell (see :func:`check_parity`).
    """

    layer: int
    dim: int
    file: str
    bytes: int
    nodes: int
    max_difference: float
    seconds: float
    precision: str = "fp32"
    cosine_mean: float = 1.0
    cosine_min: float = 1.0
    alone_difference: float = 0.0
    speed: float | None = None
    fallbacks: int = 0
    padded_because: str = ""
    borderline: int = 0


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
        precision: As in :class:`SizeReport`.
        cosine_mean: As in :class:`SizeReport`.
        cosine_min: As in :class:`SizeReport`.
        alone_difference: As in :class:`SizeReport`, of probes that left at the same layer.
        speed: As in :class:`SizeReport`.
        fallbacks: As in :class:`SizeReport`.
        padded_because: As in :class:`SizeReport`.
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
    precision: str = "fp32"
    cosine_mean: float = 1.0
    cosine_min: float = 1.0
    alone_difference: float = 0.0
    speed: float | None = None
    fallbacks: int = 0
    padded_because: str = ""


@dataclass(frozen=True)
class ExportReport:
    """The graphs of one folder. ``str(report)`` is a table.

    Args:
        folder: The export.
        tolerance: Largest difference that was allowed in float32.
        sizes: One report per size and precision, the full one in float32 first.
        exits: One report per graph with exits and precision.
        tried: The texts that every graph was compared on.

    Example:
        >>> size = SizeReport(6, 384, "onnx/model.onnx", 90_396_762, 536, 1.8e-07, 3.94)
        >>> half = SizeReport(6, 384, "onnx/model_fp16.onnx", 45_246_319, 523, 3e-04, 2.1, "fp16", 0.99999, 0.99998)
        >>> print(ExportReport(Path("minilm-onnx"), 1e-05, (size, half)))
        minilm-onnx: 1 size in fp32, fp16, largest difference from torch in fp32 1.8e-07 (allowed 1e-05)
        layer  dim  precision  file                  MB  nodes  max diff   cosine      min    alone  speed  sec
            6  384  fp32       onnx/model.onnx       90    536   1.8e-07  1.00000  1.00000  0.0e+00         3.9
            6  384  fp16       onnx/model_fp16.onnx  45    523   3.0e-04  0.99999  0.99998  0.0e+00         2.1
    """

    folder: Path
    tolerance: float
    sizes: tuple[SizeReport, ...]
    exits: tuple[ExitReport, ...] = ()
    tried: Tried | None = None

    @property
    def max_difference(self) -> float:
        """The worst over all graphs in float32."""
        return max(graph.max_difference for graph in self._graphs if graph.precision == "fp32")

    @property
    def reached(self) -> dict[str, dict[str, float]]:
        """What a manifest says of each file."""
        names = ("max_difference", "cosine_mean", "cosine_min", "alone_difference")
        return {graph.file: {name: getattr(graph, name) for name in names} for graph in self._graphs}

    def as_json(self) -> str:
        """All figures, for ``report.json``; the folder is left out, as it may be moved."""
        tried = None if self.tried is None else asdict(self.tried)
        content = {"tolerance": self.tolerance, "tried": tried, "graphs": [asdict(graph) for graph in self._graphs]}
        return json.dumps(content, indent=2) + "\n"

    @property
    def _graphs(self) -> list[SizeReport | ExitReport]:
        return [*self.sizes, *self.exits]

    def __str__(self) -> str:
        rows = [_HEADINGS, *(_row(graph) for graph in self._graphs)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(
                cell.ljust(width) if column in _WORDS else cell.rjust(width)  # words to the left, numbers to the right
                for column, (cell, width) in enumerate(zip(row, widths, strict=True))
            )
            for row in rows
        ]
        sizes = {(size.layer, size.dim) for size in self.sizes}
        count = f"{len(sizes)} size{'s' if len(sizes) > 1 else ''}"
        if self.exits:
            leaving = {exported.name for exported in self.exits}
            count += f" and {len(leaving)} graph{'s' if len(leaving) > 1 else ''} with exits"
        precisions = list(dict.fromkeys(graph.precision for graph in self._graphs))
        in_full = ""
        if len(precisions) > 1:
            count, in_full = f"{count} in {', '.join(precisions)}", " in fp32"
        worst = f"largest difference from torch{in_full} {self.max_difference:.1e} (allowed {self.tolerance:.0e})"
        lines.insert(0, f"{self.folder}: {count}, {worst}")
        if self.tried is not None:
            lines.append(f"compared on {self.tried}")
        if any(graph.speed is not None for graph in self._graphs):
            lines.append("speed: times as fast as the float32 file on the CPU of this machine, measured for a second")
        lines.extend(
            f"{graph.file}: {graph.fallbacks} operators stayed float32" for graph in self._graphs if graph.fallbacks
        )
        lines.extend(
            f"{size.file}: {size.borderline} probes are rounded otherwise than in torch"
            for size in self.sizes
            if size.borderline
        )
        padded = dict.fromkeys(graph.padded_because for graph in self._graphs if graph.padded_because)
        for reason in padded:
            files = ", ".join(graph.file for graph in self._graphs if graph.padded_because == reason)
            lines.append(f"{files}: padding is computed too, as {reason}")
        return "\n".join(lines)


_HEADINGS = (
    *("layer", "dim", "precision", "file", "MB", "nodes", "max diff"),
    *("cosine", "min", "alone", "speed", "sec"),
)
_WORDS = (2, 3)


def _row(graph: SizeReport | ExitReport) -> tuple[str, ...]:
    return (
        str(graph.layer) if isinstance(graph, SizeReport) else f"{graph.layers[0]}-{graph.layers[-1]}",
        str(graph.dim),
        graph.precision,
        graph.file,
        f"{graph.bytes / 1e6:.{0 if graph.bytes > 1e7 else 2}f}",
        str(graph.nodes),
        f"{graph.max_difference:.1e}",
        f"{graph.cosine_mean:.5f}",
        f"{graph.cosine_min:.5f}",
        f"{graph.alone_difference:.1e}",
        "" if graph.speed is None else f"{graph.speed:.2f}",
        f"{graph.seconds:.1f}",
    )
