"""CSV files of evaluators: one line more with each evaluation, as sentence-transformers writes them."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from st_plugins.whole_writes import whole_file


def add_rows(file: str | Path, headers: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Write a file, or put rows behind those it has; it is replaced when the new one is complete.

    Args:
        file: A CSV; its folder is made if there is none.
        headers: First line of a new file.
        rows: Lines.

    Example:
        >>> for epoch in (1, 2):
        ...     add_rows("results/a.csv", ["epoch", "score"], [[epoch, 0.5]])
        >>> print(Path("results/a.csv").read_text().split())
        ['epoch,score', '1,0.5', '2,0.5']
    """
    file = Path(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    added = io.StringIO(newline="")
    writer = csv.writer(added)
    if not file.exists():
        writer.writerow(headers)
    writer.writerows(rows)
    with whole_file(file) as unfinished:
        unfinished.write_bytes((file.read_bytes() if file.exists() else b"") + added.getvalue().encode())
