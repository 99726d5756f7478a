"""Retrieval quality at every size, as numbers, a table and a picture."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from sentence_transformers import SentenceTransformer
from tqdm import tqdm

Grid = dict[tuple[int, int], float]


def ndcg_at_10(questions: np.ndarray, documents: np.ndarray) -> float:
    """nDCG@10 in percent when document i is the one right answer to question i; both (n, d) unit vectors."""
    scores = questions @ documents.T
    if not np.isfinite(scores).all():
        raise ValueError("The vectors must be finite, or every comparison below is meaningless.")
    right = np.diagonal(scores)[:, None]
    ranks = (scores >= right).sum(axis=1) - 1  # 0 is best; ties count against
    return float(100 * np.where(ranks < 10, 1 / np.log2(ranks + 2), 0).mean())


def measure(
    model: SentenceTransformer, questions: list[str], documents: list[str], dims: Sequence[int], *, title: str
) -> Grid:
    """nDCG@10 with questions and documents at the same size, for every layer and each dim."""
    grid: Grid = {}
    layers = range(1, model[0].depth + 1)
    for layer in tqdm(layers, desc=title, unit="layer"):
        options = {"layer": layer, "allow_untrained": True, "show_progress_bar": False}
        asked = model.encode_query(questions, **options)
        found = model.encode_document(documents, **options)
        for dim in dims:
            grid[layer, dim] = ndcg_at_10(_cut(asked, dim), _cut(found, dim))
    return grid


def _cut(embeddings: np.ndarray, dim: int) -> np.ndarray:
    cut = embeddings[:, :dim]
    return cut / np.linalg.norm(cut, axis=1, keepdims=True)


def table(before: Grid, after: Grid) -> str:
    """Both grids side by side, one line per layer."""
    layers, dims = _axes(before)
    width = 16
    head = "layer" + "".join(f"{f'dim {dim}':>{width}}" for dim in dims)
    lines = [head, "-" * len(head)]
    for layer in layers:
        cells = (f"{before[layer, dim]:.1f} > {after[layer, dim]:.1f}" for dim in dims)
        lines.append(f"{layer:>5}" + "".join(f"{cell:>{width}}" for cell in cells))
    return "\n".join(lines)


def draw(before: Grid, after: Grid, file: Path) -> None:
    """Two heat maps on one scale; written to a temporary name first, so that a stop leaves no half a picture."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    layers, dims = _axes(before)
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.6), sharey=True, layout="constrained")
    for axis, grid, title in zip(axes, (before, after), ("base model, cut", "after training"), strict=True):
        values = np.array([[grid[layer, dim] for dim in dims] for layer in layers])
        image = axis.imshow(values, origin="lower", vmin=0, vmax=100, cmap="viridis", aspect="auto")
        axis.set(title=title, xlabel="dim", xticks=range(len(dims)), xticklabels=dims)
        axis.set(yticks=range(len(layers)), yticklabels=layers)
        for row in range(len(layers)):
            for column in range(len(dims)):
                value = values[row, column]
                color = "black" if value > 60 else "white"
                axis.text(column, row, f"{value:.1f}", ha="center", va="center", color=color)
    axes[0].set_ylabel("layer")
    figure.colorbar(image, ax=axes, label="nDCG@10 on held-out documentation (%)")
    temporary = file.with_suffix(".tmp.png")
    figure.savefig(temporary, dpi=130)
    plt.close(figure)
    temporary.rename(file)


def _axes(grid: Grid) -> tuple[list[int], list[int]]:
    return sorted({layer for layer, _ in grid}), sorted({dim for _, dim in grid})
