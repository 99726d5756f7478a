"""Runs a bulk job: plans shards, has them embedded here or by Ray, and reports."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from tqdm.auto import tqdm

from st_plugins.bulk.embedder import BulkEmbedder
from st_plugins.bulk.job_folders import BulkReport, check_job, locked, write_manifest
from st_plugins.bulk.parts import Columns, PartSummary, embed_shard, finished_part
from st_plugins.bulk.ray_engine import embed_with_ray
from st_plugins.bulk.settings import JobSettings
from st_plugins.bulk.shards import Shard, plan_shards
from st_plugins.errors import BulkError

Engine = Literal["auto", "local", "ray"]

SHARD_ROWS = 100_000
RAY_PAYS_FROM = 100_000  # rows; below, its start costs more than it saves


def embed_files(
    source: str | Path,
    output: str | Path,
    settings: JobSettings,
    *,
    text: str = "text",
    id: str | None = None,
    shard_rows: int = SHARD_ROWS,
    engine: Engine = "auto",
    workers: int | None = None,
    show_progress: bool = True,
) -> BulkReport:
    """Embed every row of some files into a folder of Parquet files.

    The input is cut into shards; each becomes one part, written whole or not at all, under a name that follows from its
    input and the job's fingerprint. A job that was killed goes on where it stopped when it is called again: no row is
    lost and none is there twice. Ids are not compared with one another.

    Every row of the input is a row of the output, with the columns ``id`` (string), ``embedding`` (float32) and
    ``error``. A row that cannot be embedded has an error and no embedding. The folder reads as one data set, for
    instance with ``pyarrow.parquet.read_table(folder)``; ``_manifest.json`` has the counts.

    Args:
        source: Parquet, JSONL, CSV, TSV or text files: one, a folder of them, or a pattern. A text file has a text per
            line. Local or mounted; compressed text is not read.
        output: Empty, new, or the folder of the same job; not inside the input, of which it would be part.
        settings: The model and how it embeds.
        text: The column with texts.
        id: The column with ids; None for ``<file>:<row>``.
        shard_rows: Rows that are done or not done together.
        engine: "local" embeds in this process, on all its cores. "ray" uses the Ray cluster this process is connected
            to or that runs here, or starts one on this machine. "auto" takes Ray, if it is installed, from 100,000
            rows on.
        workers: Of Ray; None for one per GPU, or else one per core.
        show_progress: A bar over rows.

    Returns:
        BulkReport: Counts, and one summary per part.

    Raises:
        BulkError: If the input or the folder does not fit; or another job is at work there.
        MissingExtraError: If pyarrow is not installed, or Ray was asked for and is not.
        StPluginsError: If the model cannot do what the settings ask.

    Example:
        >>> report = embed_files("texts", "vectors", JobSettings("minilm-elastic", layer=3), show_progress=False)
        >>> report.rows, report.errors
        (3, 0)
    """
    if engine not in ("auto", "local", "ray"):
        raise BulkError(f'engine must be "auto", "local" or "ray", got {engine!r}.')
    shards = plan_shards(source, shard_rows=shard_rows)
    columns, output = Columns(text, id), Path(output)
    _check_apart(Path(source), output, shards)
    embedder = BulkEmbedder(settings)  # here as well, so that a wrong setting is an error before anything starts
    fingerprint, dim = embedder.fingerprint, embedder.dim
    with locked(output):
        check_job(output, settings, columns, fingerprint, shards, dim)
        done = {shard: finished_part(shard, columns, output, fingerprint) for shard in shards}
        waiting = [shard for shard, part in done.items() if part is None]
        if engine == "auto":
            engine = "ray" if sum(shard.rows for shard in waiting) >= RAY_PAYS_FROM and find_spec("ray") else "local"
        if engine == "local":
            finished: Iterator[tuple[Shard, PartSummary]]
            finished = ((shard, embed_shard(shard, columns, output, embedder)) for shard in waiting)
        else:
            del embedder  # its memory belongs to the workers
            finished = embed_with_ray(waiting, columns, output, settings, workers=workers) if waiting else iter(())
        with _progress(shards, waiting, show_progress) as update:
            for shard, part in finished:
                _check_part(part, fingerprint)
                done[shard] = part
                update(part.rows)
        parts = tuple(part for part in done.values() if part is not None)
        report = BulkReport(output, fingerprint, dim, parts, len(shards) - len(waiting))
        write_manifest(report)
    return report


def _check_apart(source: Path, output: Path, shards: list[Shard]) -> None:
    """What a job wrote must not be read when the same job is called again."""
    target = output.resolve()
    if target.is_relative_to(source.resolve()) or any(shard.file.resolve().is_relative_to(target) for shard in shards):
        raise BulkError(f"The output must lie apart from the input, got {output} for {source}. Name another folder.")


def _check_part(part: PartSummary, fingerprint: str) -> None:
    if part.fingerprint != fingerprint:
        raise BulkError(
            f"Every machine must have the same model, but one made {part.part} with the fingerprint "
            f"{part.fingerprint}, and this one has {fingerprint}. Delete that part, and put the same folder everywhere."
        )


@contextmanager
def _progress(shards: list[Shard], waiting: list[Shard], is_shown: bool) -> Iterator[Callable[[int], object]]:
    """A bar over rows, as a function to call with the number of rows done."""
    if not is_shown:
        yield lambda rows: None
        return
    total, left = (sum(shard.rows for shard in some) for some in (shards, waiting))
    with tqdm(total=total, initial=total - left, desc="Rows", unit="row") as bar:
        yield bar.update
