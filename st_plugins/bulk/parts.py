"""Output files: one per shard, written whole or not at all, and named so that doing a shard twice changes nothing."""

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from st_plugins.bulk.embedder import BulkEmbedder, EmbeddedTexts
from st_plugins.bulk.parquet import arrow, parquet
from st_plugins.bulk.rows import Rows, content_digest, read_rows, update_digest
from st_plugins.bulk.shards import Shard
from st_plugins.errors import BulkError
from st_plugins.whole_writes import whole_file

_FOOTER = b"st_plugins.bulk"


@dataclass(frozen=True)
class Columns:
    """Names of the input's columns.

    Args:
        text: The texts.
        id: The ids; None for the name of the file and the number of the row.
    """

    text: str
    id: str | None


@dataclass(frozen=True)
class PartSummary:
    """What a part says of itself, kept in its footer.

    Args:
        part: Name of its file.
        input: Name of the input file.
        start: Number of its first row there.
        rows: Rows, each of them in the part.
        errors: Rows with an error and no vector.
        truncated: Texts that were cut to the model's length.
        fingerprint: Of the job.
        input_size: Bytes of the input file.
        input_modified: Its time of modification, in nanoseconds.
        content: SHA-256 over ids and texts.
        min_norm: The shortest vector; None without vectors.
        mean_norm: Their mean length.
    """

    part: str
    input: str
    start: int
    rows: int
    errors: int
    truncated: int
    fingerprint: str
    input_size: int
    input_modified: int
    content: str
    min_norm: float | None
    mean_norm: float | None


def part_name(shard: Shard, fingerprint: str) -> str:
    """Name of the file for a shard: always the same for the same rows and job."""
    identity = json.dumps([shard.name, shard.start, shard.rows, fingerprint])
    return f"part-{hashlib.sha256(identity.encode()).hexdigest()[:32]}.parquet"


def embed_shard(shard: Shard, columns: Columns, output: Path, embedder: BulkEmbedder) -> PartSummary:
    """Embed a shard and write its part, unless it is there already.

    Args:
        shard: Which rows.
        columns: Where texts and ids are.
        output: The folder of the job.
        embedder: What embeds; its fingerprint is that of the job.

    Returns:
        PartSummary: As in the footer.

    Raises:
        BulkError: If the shard's rows are not those it was planned with, or those of a part that is there.
        OSError: If something cannot be written. No part appears.
    """
    fingerprint = embedder.fingerprint
    target = output / part_name(shard, fingerprint)
    done = finished_part(shard, columns, output, fingerprint)
    if done is not None:
        return done
    with whole_file(target) as unfinished:
        summary = _write(shard, columns, unfinished, target.name, embedder, fingerprint)
    _flush_folder(output)
    return summary


def finished_part(shard: Shard, columns: Columns, output: Path, fingerprint: str) -> PartSummary | None:
    """The summary of a shard that is done, or None.

    Raises:
        BulkError: If the input has changed since.
    """
    target = output / part_name(shard, fingerprint)
    if not target.is_file():
        return None
    summary = read_summary(target)
    is_unchanged = (summary.input_size, summary.input_modified) == (shard.size, shard.modified)
    if not is_unchanged and content_digest(shard, text=columns.text, id=columns.id) != summary.content:
        raise BulkError(
            f"Rows {shard.start} to {shard.start + shard.rows - 1} of {shard.name} changed since they were embedded. "
            f"Delete {target.name} to embed them again, or name another folder."
        )
    return summary


def read_summary(part: Path) -> PartSummary:
    """What a part says of itself.

    Raises:
        BulkError: If it is no part of a job, or damaged.
    """
    try:
        metadata = parquet().read_metadata(part).metadata
        return PartSummary(**json.loads(metadata[_FOOTER]))
    except (OSError, ValueError, KeyError, TypeError, arrow().ArrowInvalid) as error:
        raise BulkError(f"{part} must be part of a bulk job, but cannot be read ({error}). Remove it.") from error


def _write(
    shard: Shard, columns: Columns, path: Path, name: str, embedder: BulkEmbedder, fingerprint: str
) -> PartSummary:
    digest, norms = hashlib.sha256(), []
    errors = truncated = 0
    schema = _schema(embedder.dim)
    with path.open("xb") as stream:
        with parquet().ParquetWriter(stream, schema) as writer:
            for rows, embedded in _embedded(shard, columns, embedder):
                update_digest(digest, rows)
                writer.write_table(_table(schema, rows, embedded))
                good = np.array([error is None for error in embedded.errors], dtype=bool)
                norms.append(np.linalg.norm(embedded.vectors[good], axis=1))
                errors += int((~good).sum())
                truncated += embedded.truncated
            lengths = np.concatenate(norms)
            summary = PartSummary(
                part=name,
                input=shard.name,
                start=shard.start,
                rows=shard.rows,
                errors=errors,
                truncated=truncated,
                fingerprint=fingerprint,
                input_size=shard.size,
                input_modified=shard.modified,
                content=digest.hexdigest(),
                min_norm=float(lengths.min()) if len(lengths) else None,
                mean_norm=float(lengths.mean()) if len(lengths) else None,
            )
            writer.add_key_value_metadata({_FOOTER: json.dumps(asdict(summary)).encode()})
        stream.flush()
        os.fsync(stream.fileno())
    return summary


def _embedded(shard: Shard, columns: Columns, embedder: BulkEmbedder) -> Iterator[tuple[Rows, EmbeddedTexts]]:
    for rows in read_rows(shard, text=columns.text, id=columns.id):
        embedded = embedder.embed(rows.texts)
        for place, error in rows.errors.items():  # why there is no text says more than that there is none
            embedded.errors[place] = error
        yield rows, embedded


def _schema(dim: int) -> Any:
    pa = arrow()
    return pa.schema([("id", pa.string()), ("embedding", pa.list_(pa.float32(), dim)), ("error", pa.string())])


def _table(schema: Any, rows: Rows, embedded: EmbeddedTexts) -> Any:
    pa = arrow()
    failed = np.array([error is not None for error in embedded.errors], dtype=bool)
    ids = pa.array([None if id is None else _valid(id) for id in rows.ids], pa.string())
    values = pa.array(embedded.vectors.reshape(-1))
    vectors = pa.FixedSizeListArray.from_arrays(values, type=schema.field("embedding").type, mask=pa.array(failed))
    errors = pa.array([None if error is None else _valid(error) for error in embedded.errors], pa.string())
    return pa.Table.from_arrays([ids, vectors, errors], schema=schema)


def _valid(text: str) -> str:
    """Text that a file can hold: lone surrogates are written as escapes."""
    return text.encode("utf-8", errors="backslashreplace").decode()


def _flush_folder(folder: Path) -> None:
    """Make a rename outlast a power cut, where the system can."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
