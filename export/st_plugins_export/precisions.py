"""The precisions that graphs are written in: their names, where their files lie, and how close to float32 they must be.

This file needs neither torch nor numpy.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from st_plugins.errors import PrecisionError

FULL = "fp32"


@dataclass(frozen=True)
class Precision:
    """One way to hold the numbers of a graph.

    Args:
        name: As it is asked for.
        suffix: Behind the name of the file, where consumers look for it.
        min_cosine: What the cosine of its vectors with those of torch must reach on average. No probe may be ten times
            as far from 1 as that.
        max_alone_difference: Most that a coordinate of a text may change when other texts share its batch, as a part of
            the length of its vector.
        max_score_difference: How far rounding may carry the score of an exit criterion, and so over its threshold.
    """

    name: str
    suffix: str
    min_cosine: float
    max_alone_difference: float
    max_score_difference: float

    @property
    def min_cosine_of_one(self) -> float:
        """What the cosine of every single probe must reach."""
        return 1 - 10 * (1 - self.min_cosine)


_KNOWN = (
    Precision(FULL, "", 1 - 1e-7, 1e-5, 1e-5),
    Precision("fp16", "_fp16", 0.9999, 2e-3, 2e-3),
    Precision("int8", "_quantized", 0.998, 1e-6, 0.1),
    Precision("int8-blockwise", "_int8_blockwise", 0.9995, 1e-6, 0.1),
)
PRECISIONS = {precision.name: precision for precision in _KNOWN}


def wanted_precisions(names: Iterable[str], min_cosine: Mapping[str, float] | None = None) -> tuple[Precision, ...]:
    """The precisions of an export, float32 first, each once.

    Args:
        names: As in :func:`st_plugins_export.export_onnx`.
        min_cosine: Another mean cosine to reach, by precision.

    Returns:
        tuple: Float32, which all others are compared with, even if it is not asked for.

    Raises:
        PrecisionError: If there is no such precision.

    Example:
        >>> [precision.suffix for precision in wanted_precisions(["fp16"])]
        ['', '_fp16']
    """
    if isinstance(names, str):
        raise PrecisionError(f"precisions must be a list of names, got {names!r}. Write precisions=[{names!r}].")
    names, bars = list(names), dict(min_cosine or {})
    for name in (*names, *bars):
        if name not in PRECISIONS:
            raise PrecisionError(f"A precision must be one of {list(PRECISIONS)}, got {name!r}.")
    for name, bar in bars.items():
        if not 0 <= bar <= 1:
            raise PrecisionError(f"min_cosine must be from 0 to 1, got {bar!r} for {name!r}.")
    wanted = [PRECISIONS[name] for name in dict.fromkeys([FULL, *names])]
    return tuple(replace(found, min_cosine=bars.get(found.name, found.min_cosine)) for found in wanted)
