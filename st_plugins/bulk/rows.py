"""Reads the rows of a shard, a few thousand at a time."""

import hashlib
import json
from codecs import BOM_UTF8
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from st_plugins.bulk.parquet import parquet
from st_plugins.bulk.shards import LINES, Shard, csv_lines
from st_plugins.errors import BulkError

WINDOW = 8192  # enough that sorting by length leaves almost no padding


@dataclass
class Rows:
    """Some rows: an id and a text each, or why there is none.

    Args:
        ids: Strings; ``<name of the file>:<number of the row>`` where there is no column of ids.
        texts: Strings, or None for a row that cannot be read.
        errors: Why it cannot, by position.
    """

    ids: list[str | None] = field(default_factory=list)
    texts: list[str | None] = field(default_factory=list)
    errors: dict[int, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)

    def append(self, id: str | None, text: str | None, error: str | None) -> None:
        """Add a row; one with an error loses its text."""
        if error is not None:
            self.errors[len(self.ids)] = error
        self.ids.append(id)
        self.texts.append(None if error is not None else text)


def read_rows(shard: Shard, *, text: str, id: str | None, window: int = WINDOW) -> Iterator[Rows]:
    """The rows of a shard, in their order.

    No row is left out: one that is not valid JSON, not text or has no id comes with an error in place of its text.

    Args:
        shard: Which rows.
        text: The column with texts. Text files have no columns: every line is a text.
        id: The column with ids, or None.
        window: Rows at once, at most.

    Raises:
        BulkError: If a file has no such column, or not the rows it was planned with.

    Example:
        >>> from st_plugins.bulk.shards import plan_shards
        >>> shard = plan_shards("texts", shard_rows=100_000)[0]
        >>> next(read_rows(shard, text="text", id=None)).ids
        ['a.jsonl:0', 'a.jsonl:1', 'a.jsonl:2']
    """
    suffix, read = shard.file.suffix.lower(), 0
    records = _lines(shard) if suffix in LINES else _groups(shard, text, id) if suffix == ".parquet" else _csv(shard)
    if suffix != ".txt" and suffix not in LINES:
        records = _checked_columns(records, shard, text, id)
    while True:
        rows = Rows()
        for record in islice(records, window):
            rows.append(*_row(record, f"{shard.name}:{shard.start + read}", text, id, is_line=suffix == ".txt"))
            read += 1
        if not len(rows):
            break
        yield rows
    if read != shard.rows:
        raise BulkError(
            f"{shard.file} must have {shard.rows} rows from row {shard.start} on, got {read}: it changed while the job "
            "was running. Run the job again."
        )


def content_digest(shard: Shard, *, text: str, id: str | None) -> str:
    """SHA-256 over the ids and texts of a shard: the same as long as its rows are, wherever the file lies."""
    digest = hashlib.sha256()
    for rows in read_rows(shard, text=text, id=id):
        update_digest(digest, rows)
    return digest.hexdigest()


def update_digest(digest: Any, rows: Rows) -> None:
    """Feed rows to a hash; windows of any size give the same hash."""
    for row in zip(rows.ids, rows.texts, strict=True):
        digest.update(json.dumps(row).encode() + b"\n")


def _lines(shard: Shard) -> Iterator[Any]:
    with shard.file.open("rb") as lines:
        lines.seek(shard.offset)
        for place, line in enumerate(islice(lines, shard.rows)):
            if shard.offset == place == 0:
                line = line.removeprefix(BOM_UTF8)
            yield line.decode("utf-8", errors="surrogateescape").rstrip("\r\n")


def _groups(shard: Shard, text: str, id: str | None) -> Iterator[Any]:
    file = parquet().ParquetFile(shard.file)
    columns = [name for name in (text, id) if name in file.schema_arrow.names]
    groups: list[int] = []
    rows = 0
    while rows < shard.rows and shard.offset + len(groups) < file.metadata.num_row_groups:
        rows += file.metadata.row_group(shard.offset + len(groups)).num_rows
        groups.append(shard.offset + len(groups))
    for batch in file.iter_batches(columns=columns, row_groups=groups, batch_size=WINDOW):
        yield from batch.to_pylist()


def _csv(shard: Shard) -> Iterator[Any]:
    lines = csv_lines(shard.file)
    header = next(lines)
    for cells in lines:
        yield dict(zip(header, cells, strict=False))


def _checked_columns(records: Iterator[Any], shard: Shard, text: str, id: str | None) -> Iterator[Any]:
    """The same records, if the file has the columns."""
    names = _columns(shard)
    for column in (text, id):
        if column is not None and column not in names:
            raise BulkError(f"{shard.file} must have a column {column!r}, got {', '.join(map(repr, names))}.")
    return records


def _columns(shard: Shard) -> Iterable[str]:
    if shard.file.suffix.lower() == ".parquet":
        return parquet().ParquetFile(shard.file).schema_arrow.names
    return next(csv_lines(shard.file))


def _row(
    record: Any, place: str, text: str, id: str | None, *, is_line: bool
) -> tuple[str | None, str | None, str | None]:
    """Id, text and error of a record."""
    if is_line:
        return place, record, None
    if isinstance(record, str):
        try:
            record = json.loads(record)
        except ValueError as error:
            return (place if id is None else None), None, f"not valid JSON: {error}"
        if not isinstance(record, dict):
            return (place if id is None else None), None, f"not a JSON object: {type(record).__name__}"
    key = place if id is None else record.get(id)
    if key is None:
        return None, None, f"no id in column {id!r}"
    value = record.get(text)
    if not isinstance(value, str):
        return str(key), None, f"no text in column {text!r}: {type(value).__name__}"
    return str(key), value, None
