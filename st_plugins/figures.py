"""Empty pictures, and complete ones on disk. What is drawn is decided elsewhere."""

from pathlib import Path
from typing import Any

from st_plugins.errors import MissingExtraError
from st_plugins.whole_writes import whole_file


def new_figure(width: float, height: float) -> tuple[Any, Any]:
    """A matplotlib figure and its one axis; sizes in inches.

    Raises:
        MissingExtraError: If matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise MissingExtraError("matplotlib", "plot") from None
    # Not pyplot: that would choose a window system and keep the figure for ever.
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def save_figure(figure: Any, file: str | Path) -> None:
    """Write a PNG; an earlier one is replaced when the new one is complete."""
    with whole_file(file) as unfinished:
        figure.savefig(unfinished, dpi=130, format="png")
