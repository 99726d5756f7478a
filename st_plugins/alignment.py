"""Fits one linear map per layer, in closed form, so that shallow embeddings land where the full depth puts them.

Nothing is trained here: the network stays as it is, and the maps are the solution of a least-squares problem.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor

from st_plugins.errors import InputError, SizeError, UnsupportedModelError
from st_plugins.first_modules import elastic_transformer
from st_plugins.functional import by_layer
from st_plugins.layer_batches import layer_batches
from st_plugins.model_settings import with_settings_of
from st_plugins.modes import evaluating
from st_plugins.modules import ElasticTransformer, LayerAlignment, Truncation
from st_plugins.width import embedding_width

RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
# One text in five decides between them.
_FOLDS = 5


def align_layers(
    model: SentenceTransformer,
    texts: Sequence[str],
    *,
    layers: Sequence[int] | None = None,
    prompt: str | None = None,
    batch_size: int = 64,
    show_progress: bool = False,
) -> SentenceTransformer:
    """The same model with a linear map behind each shallow layer, fitted to texts without labels.

    With x_n and y_n the unit embeddings of text n at layer k and at full depth, m_x and m_y their means, D the width::

        W_k = argmin over W of sum_n || W (x_n - m_x) - (y_n - m_y) ||^2 + ridge * S / D * ||W||^2
        b_k = m_y - W_k m_x                S = sum_n || x_n - m_x ||^2

    Of five values of ``ridge`` each layer takes the one that is best on every fifth text, then all texts are used. The
    vectors of the full depth do not change, so an index of them stays valid. It takes one pass over the texts, works on
    a model that was never trained to be cut, and is worth repeating behind a training that changed it.

    Args:
        model: An elastic model whose vectors have unit length. Left as it is; the new one shares its weights.
        texts: Like those to be embedded later. Thousands are better than hundreds; fewer than D cannot fix a map.
        layers: Layers to fit; None for all below the full depth.
        prompt: Goes before every text.
        batch_size: Texts per batch.
        show_progress: Whether a bar counts the batches.

    Returns:
        SentenceTransformer: With a :class:`~st_plugins.modules.LayerAlignment`; one the model had already is replaced.
        The layers count as trained, at the full width and at the dims trained at full depth. Exit policies are left
        behind: what they promise was proved of other vectors.

    Raises:
        UnsupportedModelError: If the model is not elastic, or its vectors are not of unit length.
        SizeError: If a layer does not exist.
        InputError: If there are fewer than ten different texts, or one is no text.

    References:
        See :class:`~st_plugins.modules.LayerAlignment`. Ridge regression is textbook.

    Example:
        >>> model = st_plugins.elastic(SentenceTransformer("sentence-transformers/all-MiniLM-L6-v2"))
        >>> texts = [f"{count} {thing}" for count in range(20) for thing in ("cats", "boats", "questions")]
        >>> aligned = align_layers(model, texts)
        >>> question, answer = aligned.encode("3 cats", layer=3), aligned.encode("3 cats")
        >>> bool(question @ answer > 0.9)
        True
    """
    first = elastic_transformer(model, "an alignment")
    depth = first.depth
    chosen = sorted(set(range(1, depth) if layers is None else layers))
    if not chosen or not all(isinstance(layer, int) and 1 <= layer < depth for layer in chosen):
        raise SizeError(f"layers must be below the full depth {depth} and at least 1, got {layers!r}.")
    if isinstance(texts, str) or not all(isinstance(text, str) for text in texts) or len(set(texts)) < 2 * _FOLDS:
        raise InputError(f"texts must be at least {2 * _FOLDS} different texts. Take some thousand like yours.")
    bare = {name: module for name, module in model.named_children() if not isinstance(module, LayerAlignment)}
    width = embedding_width(bare.values())
    alignment = LayerAlignment(width, chosen).to(model.device)
    folds = _moments(with_settings_of(model, bare), sorted(set(texts)), chosen, prompt, batch_size, show_progress)
    with torch.no_grad():
        for index in range(len(chosen)):
            weight, bias = _fit([fold.layer(index) for fold in folds])
            alignment.weight[index] = weight.to(alignment.weight)
            alignment.bias[index] = bias.to(alignment.bias)
    dims = {width, *(dim for layer, dim in first.sizes if layer == depth)}
    sizes = [(layer, dim) for layer, dim in first.sizes] + [(layer, dim) for layer in chosen for dim in dims]
    transformer = ElasticTransformer.from_transformer(first, sizes)
    bare[next(iter(bare))] = transformer
    return with_settings_of(model, _with_alignment(bare, alignment))


class _Moments:
    """Sums over texts of x, y, x x^T, x y^T and y y^T, in double precision; of one layer or of several at once."""

    def __init__(self, count: float, x: Tensor, y: Tensor, xx: Tensor, xy: Tensor, yy: Tensor) -> None:
        self.parts = (count, x, y, xx, xy, yy)

    @classmethod
    def of(cls, x: Tensor, y: Tensor) -> "_Moments":
        """Of x (B, S, D) and y (B, D)."""
        x, y = x.double(), y.double()
        xx = torch.einsum("bsi,bsj->sij", x, x)
        return cls(len(y), x.sum(0), y.sum(0), xx, torch.einsum("bsi,bj->sij", x, y), (y * y).sum())

    def __add__(self, other: "_Moments") -> "_Moments":
        return _Moments(*(a + b for a, b in zip(self.parts, other.parts, strict=True)))

    def layer(self, index: int) -> "_Moments":
        """Those of one layer."""
        count, x, y, xx, xy, yy = self.parts
        return _Moments(count, x[index], y, xx[index], xy[index], yy)

    def solve(self, ridge: float) -> tuple[Tensor, Tensor]:
        """W (D, D) and b (D,) of the formula above."""
        count, x, y, xx, xy, _ = self.parts
        mean_x, mean_y = x / count, y / count
        gram = xx - count * torch.outer(mean_x, mean_x)
        strength = ridge * gram.trace() / len(gram)
        # Texts that are all alike at this layer have no spread to divide by.
        gram = gram + (strength + torch.finfo(gram.dtype).eps) * torch.eye(len(gram), dtype=gram.dtype)
        weight = torch.linalg.solve(gram, xy - count * torch.outer(mean_x, mean_y)).T
        return weight, mean_y - weight @ mean_x

    def error(self, weight: Tensor, bias: Tensor) -> float:
        """Sum over texts of || W x + b - y ||^2."""
        count, x, y, xx, xy, yy = self.parts
        quadratic = torch.einsum("ij,jk,ik->", weight, xx, weight) - 2 * (weight.T * xy).sum() + yy
        return float(quadratic + count * bias @ bias + 2 * bias @ (weight @ x) - 2 * bias @ y)


def _fit(folds: list[_Moments]) -> tuple[Tensor, Tensor]:
    held_out, *others = folds
    rest = sum(others[1:], others[0])
    best = min(RIDGES, key=lambda ridge: held_out.error(*rest.solve(ridge)))
    return (rest + held_out).solve(best)


@torch.inference_mode()
def _moments(
    model: SentenceTransformer, texts: list[str], layers: list[int], prompt: str | None, batch_size: int, bar: bool
) -> list[_Moments]:
    """Moments of every fifth text, and of the others."""
    asked = (*layers, elastic_transformer(model, "an alignment").depth)
    is_held_out = torch.from_numpy(np.random.default_rng(0).permutation(len(texts)) % _FOLDS == 0)
    folds: list[_Moments | None] = [None] * 2
    with evaluating(model):
        for places, _, outputs in layer_batches(
            model, texts, asked, prompt=prompt, batch_size=batch_size, show_progress=bar
        ):
            states = by_layer(outputs["sentence_embedding"], asked).float().cpu()
            _check_unit(states[:, -1])
            unit = torch.nn.functional.normalize(states, dim=-1)  # (B, S + 1, D)
            held_out = is_held_out[places]
            for fold, rows in enumerate((held_out, ~held_out)):
                part = _Moments.of(unit[rows, :-1], unit[rows, -1])
                before = folds[fold]
                folds[fold] = part if before is None else before + part
    return [fold for fold in folds if fold is not None]


def _check_unit(vectors: Tensor) -> None:
    lengths = vectors.norm(dim=-1)
    if not torch.allclose(lengths, torch.ones_like(lengths), atol=1e-2):
        raise UnsupportedModelError(
            f"The vectors of the full depth must have unit length to align others to them, one has "
            f"{float(lengths[0]):.3g}. Add sentence_transformers.sentence_transformer.modules.Normalize() to the model."
        )


def _with_alignment(modules: dict[str, Any], alignment: LayerAlignment) -> dict[str, Any]:
    """The modules with the alignment last, but before a truncation, and names that count."""
    children = list(modules.values())
    place = len(children) - isinstance(children[-1], Truncation)
    children.insert(place, alignment)
    return {str(index): child for index, child in enumerate(children)}
