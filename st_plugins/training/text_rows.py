"""Reads the rows of a dataset of texts, for collators that make their own batches."""

from typing import Any

from st_plugins.errors import LossError


def only_texts(rows: list[dict[str, Any]]) -> tuple[str, list[str]]:
    """The one column of rows, and its texts; ``dataset_name``, which the trainer may add, is not counted.

    Raises:
        LossError: If there are other columns, or a row has something else than a text.

    Example:
        >>> only_texts([{"text": "one"}, {"text": "two"}])
        ('text', ['one', 'two'])
    """
    columns = [name for name in rows[0] if name != "dataset_name"]
    if len(columns) != 1 or not all(isinstance(row[columns[0]], str) for row in rows):
        raise LossError(
            f"Rows must have exactly one column, of texts, got columns {columns} with "
            f"{sorted({type(row[name]).__name__ for row in rows for name in columns})}. "
            'Choose it with dataset.select_columns(["text"]) and filter out rows without a text.'
        )
    return columns[0], [row[columns[0]] for row in rows]
