"""An HNSW graph over the first coordinates of documents: finds near ones without looking at all of them."""

import threading
from importlib import import_module
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np

from langchain_st_plugins.row_buffers import RowBuffer
from st_plugins.errors import ManifestError, MissingExtraError

# Vectors that are added at a time; searches get their turn in between.
_BATCH = 256
# A quarter of the memory of float32, and faster. A cosine is off by some thousandths; what is found is ranked by the
# exact one.
_DTYPE = "i8"


class Graph:
    """Rows near a query by a navigable small world graph, approximate; usearch holds the nodes.

    Every state of an index has one of its own, which stays as it is: later ones share its nodes, add to them, and say
    for each node in which row its document is now. A deleted document keeps its node, which is passed over.

    Args:
        nodes: A usearch index whose keys are 0, 1, 2...
        rows: (m, 1) the row of each node, -1 where its document is gone. Nodes from m on belong to later states.
        turns: A lock around the nodes, which usearch does not protect from a search while something is added.
        mapped: The file the nodes lie in, from which they are read before the first addition; None if in memory.

    Raises:
        MissingExtraError: If usearch is not installed.

    References:
        Malkov and Yashunin, *Efficient and robust approximate nearest neighbor search using Hierarchical Navigable
        Small World graphs*, 2016, https://arxiv.org/abs/1603.09320.

    Example:
        >>> graph = Graph.empty(3).extended(np.eye(3, dtype=np.float32))
        >>> graph.nearest(np.array([0.1, 0.9, 0.4], dtype=np.float32), 2).tolist()
        [1, 2]
    """

    def __init__(self, nodes: Any, rows: RowBuffer, turns: threading.Lock, *, mapped: Any = None) -> None:
        self._nodes = nodes
        self._rows = rows
        self._turns = turns
        self._mapped = mapped
        self.count = int((rows.rows >= 0).sum())

    @classmethod
    def empty(cls, dim: int) -> "Graph":
        """A graph without nodes, over vectors of this width."""
        nodes = usearch_index()(ndim=dim, metric="ip", dtype=_DTYPE)
        return cls(nodes, RowBuffer.of(np.zeros((0, 1), dtype=np.int64)), threading.Lock())

    @property
    def dim(self) -> int:
        """Width of its vectors."""
        return int(self._nodes.ndim)

    @property
    def is_mostly_gone(self) -> bool:
        """Whether more than half of its nodes have lost their documents, so that a new graph is worth its time."""
        return self.count < self._rows.count / 2

    @property
    def rows(self) -> np.ndarray:
        """(m,) the row of each node, or -1."""
        return self._rows.rows[:, 0]

    def extended(self, vectors: np.ndarray) -> "Graph":
        """A graph with these unit vectors (m, dim) as its next rows. One caller at a time may extend the newest one."""
        if not len(vectors):
            return self
        nodes, turns = self._nodes, self._turns
        if self._mapped is not None:
            nodes, turns = usearch_index().restore(self._mapped), threading.Lock()
        first = len(nodes)
        for start in range(0, len(vectors), _BATCH):
            batch = vectors[start : start + _BATCH]
            with turns:
                nodes.add(np.arange(first + start, first + start + len(batch)), batch)
        # Nodes of an addition that failed half-way belong to nobody.
        rows = self._rows.extended(np.full((first - self._rows.count, 1), -1, dtype=np.int64))
        rows = rows.extended(self.count + np.arange(len(vectors))[:, np.newaxis])
        return Graph(nodes, rows, turns)

    def without(self, kept: np.ndarray) -> "Graph":
        """A graph of the rows (m,) that are kept, ascending; they are rows 0 to m - 1 from now on."""
        moved = np.full(self.count + 1, -1, dtype=np.int64)  # the last one for nodes that had no row before
        kept = kept[kept < self.count]
        moved[kept] = np.arange(len(kept))
        return Graph(self._nodes, RowBuffer.of(moved[self._rows.rows]), self._turns, mapped=self._mapped)

    def nearest(self, query: np.ndarray, count: int) -> np.ndarray | None:
        """Rows whose vectors are near a query, the nearest first.

        Args:
            query: (dim,) unit vector.
            count: How many.

        Returns:
            np.ndarray: (count,) integers; None if it finds fewer, around many deleted documents for one. The caller
            then looks at all of them.
        """
        rows = self.rows
        asked = ceil(count * len(rows) / max(self.count, 1))
        for wanted in (asked, 4 * asked):
            with self._turns:
                keys = self._nodes.search(query, wanted, threads=1).keys.astype(np.int64)
            found = rows[keys[keys < len(rows)]]
            found = found[found >= 0]
            if len(found) >= count:
                return found[:count]
        return None

    def save(self, file: Path) -> None:
        """Write the nodes; the rows are the caller's to keep."""
        with self._turns:
            self._nodes.save(file)

    @classmethod
    def opened(cls, content: Any, rows: np.ndarray, *, dim: int, count: int) -> "Graph":
        """A graph of what :meth:`save` wrote, read when it is searched.

        Args:
            content: The file, mapped and known to be as it was written: usearch trusts what it reads.
            rows: (m,) the row of each node.
            dim: Width of its vectors.
            count: Documents in it.

        Raises:
            ManifestError: If this is another graph.
        """
        nodes = usearch_index().restore(content, view=True)
        alive = np.sort(rows[rows >= 0])
        if nodes.ndim != dim or len(nodes) < len(rows) or not np.array_equal(alive, np.arange(count)):
            raise ManifestError(
                f"A saved graph must have {count} documents at dim {dim}, this one has {len(alive)} at dim "
                f"{nodes.ndim}. Build the index again."
            )
        return cls(nodes, RowBuffer.of(rows[:, np.newaxis]), threading.Lock(), mapped=content)


def usearch_index() -> Any:
    """The class of the nodes.

    Raises:
        MissingExtraError: If usearch is not installed.
    """
    try:
        return import_module("usearch.index").Index
    except ModuleNotFoundError as error:
        if error.name not in ("usearch", "usearch.index"):
            raise
        raise MissingExtraError("usearch", "hnsw") from None
