"""Texts and tables from the files that are named on a command line, whole: for hundreds or thousands of rows."""

import math
from collections.abc import Iterator, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from st_plugins.bulk.parquet import arrow, parquet
from st_plugins.bulk.rows import Rows, read_rows
from st_plugins.bulk.shards import csv_lines, plan_shards
from st_plugins.errors import InputError

_ROWS = 100_000


def read_texts(source: str, column: str) -> list[str]:
    """Every text of a file, a folder or a pattern, in order; blank ones are left out.

    Args:
        source: Parquet, JSONL, CSV, TSV or text.
        column: The column with texts; in text files every line is one.

    Raises:
        InputError: If a row has no text, or there is none but blank ones.
        BulkError: If there is no such file or column.

    Example:
        >>> read_texts("texts", "text")[:2]
        ['Text number 0', 'Text number 1']
    """
    texts = [
        text
        for rows in checked_rows(source, text=column, id=None)
        for text in rows.texts
        if text is not None and text.strip()
    ]
    if not texts:
        raise InputError(f"{source} must hold at least one text that is not blank, got none.")
    return texts


def checked_rows(source: str, *, text: str, id: str | None) -> Iterator[Rows]:
    """The rows of all files, some thousands at a time, every one of them with an id and a text.

    Args:
        source: As for :func:`read_texts`.
        text: The column with texts.
        id: The column with ids; None makes them ``<file>:<row>``.

    Raises:
        InputError: If a row has no text or no id.
        BulkError: If there is no such file or column.

    Example:
        >>> next(checked_rows("texts", text="text", id=None)).ids
        ['a.jsonl:0', 'a.jsonl:1', 'a.jsonl:2']
    """
    for shard in plan_shards(source, shard_rows=_ROWS):
        start = shard.start
        for rows in read_rows(shard, text=text, id=id):
            for place, error in rows.errors.items():
                raise InputError(f"Row {start + place} of {shard.file} cannot be used: {error}. Mend the file.")
            yield rows
            start += len(rows)


def numbers(table: Any, column: str, file: str) -> list[float]:
    """A column of a table as numbers.

    Args:
        table: From :func:`read_table`.
        column: One that it has.
        file: Where it comes from, for the message.

    Raises:
        InputError: If a cell is no finite number, or empty.

    Example:
        >>> numbers(read_table("sts.csv"), "score", "sts.csv")
        [0.9, 0.1]
    """
    found = []
    for row, cell in enumerate(table[column].to_pylist()):
        try:
            number = float(cell)
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise InputError(
                f"{column} must be a number in every row of {file}, got {cell!r} in row {row}. Mend the file."
            )
        found.append(number)
    return found


def read_table(file: str, columns: Sequence[str] = (), *, texts: Sequence[str] | None = ()) -> Any:
    """A Parquet, JSONL, CSV or TSV file as a ``pyarrow.Table``.

    Args:
        file: One file.
        columns: Those it must have.
        texts: Columns of texts; in CSV and TSV files their cells stay as they are written, where 007 would else be a
            number. None for all.

    Raises:
        InputError: If it cannot be read, has no rows, or lacks a column.

    Example:
        >>> read_table("pairs.jsonl", ["anchor", "positive"]).column_names
        ['anchor', 'positive']
    """
    pyarrow = arrow()
    csv, json = import_module("pyarrow.csv"), import_module("pyarrow.json")

    def read_csv(path: str, delimiter: str = ",") -> Any:
        names = next(csv_lines(Path(path)), []) if texts is None else texts
        options = csv.ConvertOptions(column_types=dict.fromkeys(names, pyarrow.string()))
        return csv.read_csv(path, parse_options=csv.ParseOptions(delimiter=delimiter), convert_options=options)

    readers = {
        ".parquet": parquet().read_table,
        ".jsonl": json.read_json,
        ".ndjson": json.read_json,
        ".csv": read_csv,
        ".tsv": partial(read_csv, delimiter="\t"),
    }
    suffix = Path(file).suffix.lower()
    if suffix not in readers:
        raise InputError(f"{file} must end in one of {', '.join(readers)}. Convert it, or rename it.")
    try:
        table = readers[suffix](file)
    except pyarrow.ArrowInvalid as error:
        raise InputError(f"{file} must be a table, but it cannot be read as {suffix[1:]}: {error}") from None
    missing = [name for name in columns if name not in table.column_names]
    if missing:
        raise InputError(f"{file} must have a column {missing[0]!r}, got {', '.join(map(repr, table.column_names))}.")
    if not table.num_rows:
        raise InputError(f"{file} must hold at least one row, got none.")
    return table
