"""Input files, and the shards they are cut into: the unit that is done or not done."""

import csv
import glob
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from st_plugins.bulk.parquet import parquet
from st_plugins.errors import BulkError

SUFFIXES = (".parquet", ".jsonl", ".ndjson", ".csv", ".tsv", ".txt")
LINES = (".jsonl", ".ndjson", ".txt")


@dataclass(frozen=True)
class Shard:
    """Consecutive rows of one file.

    Args:
        file: The file.
        name: What it is called in ids and outputs: its path below the input folder.
        start: Number of its first row, from 0.
        rows: How many there are.
        offset: Where the first row begins: a byte in files of lines, a row group in Parquet files.
        size: Bytes of the file when the shard was planned.
        modified: Its time of modification then, in nanoseconds.
    """

    file: Path
    name: str
    start: int
    rows: int
    offset: int
    size: int
    modified: int


def plan_shards(source: str | Path, *, shard_rows: int) -> list[Shard]:
    """All shards of a file, a folder, or a pattern like ``texts/*.parquet``, in the order of their names.

    Args:
        source: Folders are searched to the bottom; files of other kinds in them are left alone.
        shard_rows: Rows of a shard, at most. A row group of a Parquet file and a CSV file are never cut.

    Raises:
        BulkError: If nothing is found, a file has a suffix that cannot be read, or there is no row at all.

    Example:
        >>> [(shard.name, shard.rows) for shard in plan_shards("texts", shard_rows=100_000)]
        [('a.jsonl', 3)]
    """
    if shard_rows < 1:
        raise BulkError(f"shard_rows must be positive, got {shard_rows}.")
    shards = []
    for file, name in _files(str(source)):
        status = file.stat()
        for start, rows, offset in _cuts(file, shard_rows):
            shards.append(Shard(file, name, start, rows, offset, status.st_size, status.st_mtime_ns))
    if not shards:
        raise BulkError(f"{source} must hold at least one row, got none.")
    return shards


def _files(source: str) -> Iterator[tuple[Path, str]]:
    path = Path(source)
    if path.is_dir():
        found = sorted(file for file in path.rglob("*") if file.is_file() and file.suffix.lower() in SUFFIXES)
        yield from ((file, file.relative_to(path).as_posix()) for file in found)
        if found:
            return
    else:
        matches = [path] if path.is_file() else sorted(map(Path, glob.glob(source, recursive=True)))
        files = [file for file in matches if file.is_file()]
        for file in files:
            if file.suffix.lower() not in SUFFIXES:
                raise BulkError(f"{file} must end in one of {', '.join(SUFFIXES)}. Convert it, or rename it.")
        root = path.parent if path.is_file() else Path(source[: _first_wildcard(source)] + "file").parent
        yield from ((file, file.relative_to(root).as_posix()) for file in files)
        if files:
            return
    raise BulkError(f"{source} must be a file, a folder or a pattern with files ending in {', '.join(SUFFIXES)}.")


def _first_wildcard(source: str) -> int:
    return next(place for place in count() if source[place : place + 1] in ("*", "?", "[", ""))


def _cuts(file: Path, shard_rows: int) -> Iterator[tuple[int, int, int]]:
    """First row, number of rows, and offset of each shard of a file."""
    suffix = file.suffix.lower()
    if suffix == ".parquet":
        yield from _cuts_of_groups(file, shard_rows)
    elif suffix in LINES:
        yield from _cuts_of_lines(file, shard_rows)
    else:
        rows = _csv_rows(file)
        if rows:
            yield 0, rows, 0


def _cuts_of_groups(file: Path, shard_rows: int) -> Iterator[tuple[int, int, int]]:
    metadata = parquet().ParquetFile(file).metadata
    start, rows, first = 0, 0, 0
    for group in range(metadata.num_row_groups):
        more = metadata.row_group(group).num_rows
        if rows and rows + more > shard_rows:
            yield start, rows, first
            start, rows, first = start + rows, 0, group
        rows += more
    if rows:
        yield start, rows, first


def _cuts_of_lines(file: Path, shard_rows: int) -> Iterator[tuple[int, int, int]]:
    start, rows, first, here = 0, 0, 0, 0
    with file.open("rb") as lines:
        for line in lines:
            if rows == shard_rows:
                yield start, rows, first
                start, rows, first = start + rows, 0, here
            rows += 1
            here += len(line)
    if rows:
        yield start, rows, first


def _csv_rows(file: Path) -> int:
    return max(sum(1 for _ in csv_lines(file)) - 1, 0)


def csv_lines(file: Path) -> Iterator[list[str]]:
    """The cells of each line of a CSV or TSV file, the header first. Excel begins a file with a mark, which is none."""
    csv.field_size_limit(max(csv.field_size_limit(), 2**31 - 1))  # of the process; 131,072 are few for a text
    delimiter = "\t" if file.suffix.lower() == ".tsv" else ","
    with file.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as lines:
        yield from csv.reader(lines, delimiter=delimiter)
