"""What decides the vectors of a job; plain data, so that it travels to other processes and into files."""

from dataclasses import dataclass
from typing import Literal

from st_plugins.backends import Backend
from st_plugins.counts import is_count
from st_plugins.errors import BulkError

Task = Literal["document", "query"]


@dataclass(frozen=True)
class JobSettings:
    """A model, and how it embeds.

    Args:
        model: A folder or a hub id; a folder that every worker can read.
        layer: Blocks to run, in an elastic model or an export of that size; None for the full depth.
        truncate_dim: Width of the vectors; None for the full one.
        exit: A policy by which texts leave early; goes without ``layer``.
        task: Which side of a search the texts are on: decides the model's prompt and route.
        backend: "torch", "onnx", or "auto", which takes what the folder is.
        precision: Of an ONNX export.
        device: Where to run; None leaves it to the backend.
        threads: Threads of one worker; None leaves it to the backend.
        token_budget: Tokens per batch of a torch model, padding included. An export decides by itself.

    Raises:
        BulkError: If a number is not positive, or the task is no task.

    Example:
        >>> JobSettings("minilm-elastic", layer=3).task
        'document'
    """

    model: str
    layer: int | None = None
    truncate_dim: int | None = None
    exit: str | float | None = None
    task: Task = "document"
    backend: Backend = "auto"
    precision: str = "fp32"
    device: str | None = None
    threads: int | None = None
    token_budget: int = 8192

    def __post_init__(self) -> None:
        if self.task not in ("document", "query"):
            raise BulkError(f'task must be "document" or "query", got {self.task!r}.')
        for name in ("layer", "truncate_dim", "threads", "token_budget"):
            value = getattr(self, name)
            if value is not None and not is_count(value):
                raise BulkError(f"{name} must be a positive integer, got {value!r}.")
