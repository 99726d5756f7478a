"""The folder of a job: what it is for, which parts belong to it, and what came of it."""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from st_plugins import __version__
from st_plugins.bulk.parts import Columns, PartSummary, part_name
from st_plugins.bulk.settings import JobSettings
from st_plugins.bulk.shards import Shard
from st_plugins.errors import BulkError
from st_plugins.whole_writes import UNFINISHED, whole_file

# Readers of Parquet folders pass over names that begin with an underscore or a dot.
JOB_FILE = "_job.json"
MANIFEST_FILE = "_manifest.json"
_LOCK_FILE = ".lock"
_FORMAT = "st_plugins bulk job 1"


@dataclass(frozen=True)
class BulkReport:
    """What a job did. ``print(report)`` shows it.

    Args:
        folder: Where the parts are.
        fingerprint: Of the job; every part carries it.
        dim: Width of the vectors.
        parts: One per shard, in the order of the input.
        resumed: How many of them were there already.

    Example:
        >>> print(BulkReport(Path("vectors"), "9f" * 32, 384, (), resumed=0))
        0 rows, parts: 0 (0 were there already), 384 dimensions
        0 without a vector, 0 cut to the model's length
        vectors, fingerprint 9f9f9f9f9f9f9f9f
    """

    folder: Path
    fingerprint: str
    dim: int
    parts: tuple[PartSummary, ...]
    resumed: int

    @property
    def rows(self) -> int:
        """All rows, those with errors included."""
        return sum(part.rows for part in self.parts)

    @property
    def errors(self) -> int:
        """Rows without a vector; the column ``error`` says why."""
        return sum(part.errors for part in self.parts)

    @property
    def truncated(self) -> int:
        """Texts that were longer than the model reads."""
        return sum(part.truncated for part in self.parts)

    def __str__(self) -> str:
        return (
            f"{self.rows} rows, parts: {len(self.parts)} ({self.resumed} were there already), {self.dim} dimensions\n"
            f"{self.errors} without a vector, {self.truncated} cut to the model's length\n"
            f"{self.folder}, fingerprint {self.fingerprint[:16]}"
        )


@contextmanager
def locked(output: Path) -> Iterator[None]:
    """Keep other jobs out of a folder, which is made if it does not exist; what a killed job left half done goes.

    Raises:
        BulkError: If another job is at work there.
    """
    output.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(output / _LOCK_FILE, timeout=0):
            _remove_unfinished(output)
            yield
            _remove_unfinished(output)  # of workers that were killed
    except Timeout as error:
        raise BulkError(f"Another job is writing to {output}. Wait until it ends, or name another folder.") from error


def check_job(
    output: Path, settings: JobSettings, columns: Columns, fingerprint: str, shards: Iterable[Shard], dim: int
) -> None:
    """Begin a job, or make sure that it is the one that was begun here.

    Raises:
        BulkError: If the folder belongs to another model or another size, or holds parts of other input; or if there is
            something else in it.
    """
    file = output / JOB_FILE
    if file.is_file():
        _check_same(output, _read(file), columns, fingerprint)
    else:
        _check_empty(output)
        job = {"format": _FORMAT, "fingerprint": fingerprint, "dim": dim, "columns": asdict(columns)}
        job |= {"settings": asdict(settings), "st_plugins": __version__}
        _write_json(file, job)
    expected = {part_name(shard, fingerprint) for shard in shards}
    strange = sorted(path.name for path in output.glob("part-*.parquet") if path.name not in expected)
    if strange:
        raise BulkError(
            f"{output} holds {len(strange)} parts of input that is not there any more or is cut otherwise, "
            f"{strange[0]} for one. Give the same input and shard_rows as before, or name another folder."
        )


def write_manifest(report: BulkReport) -> None:
    """Write the summary of a finished job, at once."""
    manifest = {
        "format": _FORMAT,
        "fingerprint": report.fingerprint,
        "dim": report.dim,
        "rows": report.rows,
        "errors": report.errors,
        "truncated": report.truncated,
        "parts": [asdict(part) for part in report.parts],
    }
    _write_json(report.folder / MANIFEST_FILE, manifest)


def _check_same(output: Path, job: dict[str, object], columns: Columns, fingerprint: str) -> None:
    if job.get("fingerprint") != fingerprint:
        raise BulkError(
            f"{output} was begun with another model, size or prompt: its fingerprint is {job.get('fingerprint')}, that "
            f"of this job {fingerprint}. Vectors of both cannot be compared. Name another folder."
        )
    if job.get("columns") != asdict(columns):
        raise BulkError(
            f"{output} was begun with the columns {job.get('columns')}, got {asdict(columns)}. Name those, or another "
            "folder."
        )


def _check_empty(output: Path) -> None:
    others = sorted(path.name for path in output.iterdir() if path.name != _LOCK_FILE)
    if others:
        raise BulkError(f"{output} must be empty or hold a bulk job, got {others[0]!r} in it. Name another folder.")


def _read(file: Path) -> dict[str, object]:
    try:
        job = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BulkError(f"{file} is no JSON ({error}). Name another folder.") from error
    if not isinstance(job, dict) or job.get("format") != _FORMAT:
        raise BulkError(f"{file} must say {_FORMAT!r}. It was written by another version: name another folder.")
    return job


def _remove_unfinished(output: Path) -> None:
    for leftover in output.glob(f".*{UNFINISHED}"):
        leftover.unlink(missing_ok=True)


def _write_json(file: Path, value: object) -> None:
    with whole_file(file) as unfinished:
        unfinished.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
