"""Runs the shards of a job on a Ray cluster: Ray schedules, retries and restarts, this file only asks it to."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from st_plugins.backends import backend_of
from st_plugins.bulk.embedder import BulkEmbedder
from st_plugins.bulk.parts import Columns, PartSummary, embed_shard
from st_plugins.bulk.settings import JobSettings
from st_plugins.bulk.shards import Shard
from st_plugins.errors import BulkError, MissingExtraError, StPluginsError


class ShardWorker:
    """One process of Ray: a model, and the shards it is given. What it did is on disk before it says so.

    Args:
        settings: The model and how it embeds.
        columns: Of the input.
        output: The folder of the job, which every machine sees under this path.
    """

    def __init__(self, settings: JobSettings, columns: Columns, output: Path) -> None:
        self._columns = columns
        self._output = output
        self._embedder = BulkEmbedder(settings)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Embed shards.

        Args:
            batch: ``shard``: shards as JSON.

        Returns:
            dict: ``shard`` again, ``part``: summaries as JSON, and ``refusal``: why there is none, if we refused it. An
            exception would arrive as one of Ray's, and nothing but its text would be left.
        """
        parts, refusals = [], []
        for line in batch["shard"]:
            part, refusal = "", ""
            try:
                part = json.dumps(asdict(embed_shard(_parsed(line), self._columns, self._output, self._embedder)))
            except StPluginsError as error:
                refusal = str(error)
            parts.append(part)
            refusals.append(refusal)
        return {"shard": list(batch["shard"]), "part": parts, "refusal": refusals}


def embed_with_ray(
    shards: list[Shard], columns: Columns, output: Path, settings: JobSettings, *, workers: int | None = None
) -> Iterator[tuple[Shard, PartSummary]]:
    """Shards with what became of them, in the order they are finished.

    A worker that dies is replaced, and its shard is done again by another one; so is that of a machine that is lost. A
    shard that raises an exception is not: it would come again.

    Args:
        shards: Not empty.
        columns: Of the input.
        output: A folder every machine sees under this path, as it must see the input and the model.
        settings: The model; with ``threads=None`` a worker on a CPU has one.
        workers: Processes; None for one per GPU, or else one per core. An export runs on GPUs if ``device`` says so.

    Raises:
        MissingExtraError: If Ray is not installed.
        BulkError: If the cluster has no core for a worker, or a worker refuses its shard.
        ray.exceptions.RayError: If a worker raises anything else.
    """
    with _connected() as ray:
        count, resources = _shares(ray.cluster_resources(), workers, settings)
        if "num_gpus" not in resources and settings.threads is None:
            settings = replace(settings, threads=1)  # workers that share cores must not wait for each other's threads
        if Path(settings.model).is_dir():  # workers may be started elsewhere
            settings = replace(settings, model=str(Path(settings.model).resolve()))
        found = {_line(shard): shard for shard in shards}
        waiting = ray.data.from_items([{"shard": line} for line in found], override_num_blocks=len(found))
        running = waiting.map_batches(
            ShardWorker,
            fn_constructor_args=(settings, columns, output.resolve()),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=min(count, len(shards))),
            **resources,
        )
        for row in running.iter_rows():
            if row["refusal"]:
                raise BulkError(row["refusal"])
            yield found[row["shard"]], PartSummary(**json.loads(row["part"]))


@contextmanager
def _connected() -> Iterator[Any]:
    """Ray, connected to the cluster there is, or to a new one on this machine that ends with the job."""
    try:
        ray = import_module("ray")
        import_module("ray.data")
    except ImportError as error:
        raise MissingExtraError("ray", "ray") from error
    is_ours = not ray.is_initialized()
    if is_ours:
        ray.init(include_dashboard=False, logging_level="WARNING", log_to_driver=False)
    context = ray.data.DataContext.get_current()
    before = context.enable_progress_bars
    context.enable_progress_bars = False  # the job has a bar of its own, over rows
    try:
        yield ray
    finally:
        context.enable_progress_bars = before
        if is_ours:
            ray.shutdown()


def _shares(cluster: dict[str, float], workers: int | None, settings: JobSettings) -> tuple[int, dict[str, float]]:
    """How many workers, and what each of them asks of Ray.

    One core is left for Ray Data's own tasks: workers that hold every core keep those waiting, and with them themselves
    (https://github.com/ray-project/ray/issues/44687).
    """
    gpus, cores = int(cluster.get("GPU", 0)), int(cluster.get("CPU", 0))
    # Without a device torch takes a GPU where there is one, and an export the CPU.
    device = settings.device or ("cuda" if backend_of(settings.model, settings.backend) == "torch" else "cpu")
    if gpus and device.startswith("cuda"):
        return workers or gpus, {"num_gpus": min(1.0, gpus / (workers or gpus)), "num_cpus": 0.5}
    if cores < 1:
        raise BulkError(f"The Ray cluster must have a core for a worker, got {cluster}.")
    count = workers or cores
    share = min(1.0, (cores - 1) / count) if cores > 1 else 0.5
    return count, {"num_cpus": int(share * 100) / 100}


def _line(shard: Shard) -> str:
    return json.dumps({**asdict(shard), "file": str(shard.file.resolve())})


def _parsed(line: str) -> Shard:
    values = json.loads(line)
    return Shard(**{**values, "file": Path(values["file"])})
