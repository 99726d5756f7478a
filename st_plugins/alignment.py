"""Fits one linear map per layer, in closed form, so that shallow embeddings land where the full depth puts them.

Nothing is trained here: the network stays as it is, and the maps are the solution of a least-squares problem.
"""

from collections.abc import Mapping, Sequence

import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor, nn

from st_plugins.errors import InputError, SizeError, UnsupportedModelError
from st_plugins.first_modules import elastic_transformer
from st_plugins.functional import by_layer
from st_plugins.layer_batches import layer_batches
from st_plugins.linear_maps import FOLDS, Moments, held_out_rows, ridge_map
from st_plugins.model_settings import free_name, with_settings_of
from st_plugins.modes import evaluating
from st_plugins.modules import ElasticTransformer, LayerAlignment, Truncation
from st_plugins.width import embedding_width


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
    if isinstance(texts, str) or not all(isinstance(text, str) for text in texts) or len(set(texts)) < 2 * FOLDS:
        raise InputError(f"texts must be at least {2 * FOLDS} different texts. Take some thousand like yours.")
    bare = {name: module for name, module in model.named_children() if not isinstance(module, LayerAlignment)}
    width = embedding_width(bare.values())
    alignment = LayerAlignment(width, chosen).to(model.device)
    folds = _moments(with_settings_of(model, bare), sorted(set(texts)), chosen, prompt, batch_size, show_progress)
    with torch.no_grad():
        for index in range(len(chosen)):
            weight, bias = ridge_map(*(fold.map(index) for fold in folds))
            alignment.weight[index] = weight.to(alignment.weight)
            alignment.bias[index] = bias.to(alignment.bias)
    dims = {width, *(dim for layer, dim in first.sizes if layer == depth)}
    sizes = [(layer, dim) for layer, dim in first.sizes] + [(layer, dim) for layer in chosen for dim in dims]
    transformer = ElasticTransformer.from_transformer(first, sizes)
    bare[next(iter(bare))] = transformer
    return with_settings_of(model, placed_last(bare, [alignment]))


@torch.inference_mode()
def _moments(
    model: SentenceTransformer, texts: list[str], layers: list[int], prompt: str | None, batch_size: int, bar: bool
) -> list[Moments]:
    """Moments of every fifth text, and of the others."""
    asked = (*layers, elastic_transformer(model, "an alignment").depth)
    is_held_out = held_out_rows(len(texts))
    folds: list[Moments | None] = [None] * 2
    with evaluating(model):
        for places, _, outputs in layer_batches(
            model, texts, asked, prompt=prompt, batch_size=batch_size, show_progress=bar
        ):
            states = by_layer(outputs["sentence_embedding"], asked).float().cpu()
            _check_unit(states[:, -1])
            unit = torch.nn.functional.normalize(states, dim=-1)  # (B, S + 1, D)
            held_out = is_held_out[places]
            for fold, rows in enumerate((held_out, ~held_out)):
                part = Moments.of(unit[rows, :-1], unit[rows, -1])
                before = folds[fold]
                folds[fold] = part if before is None else before + part
    return [fold for fold in folds if fold is not None]


def _check_unit(vectors: Tensor) -> None:
    lengths = vectors.norm(dim=-1)
    is_unit = torch.isclose(lengths, torch.ones_like(lengths), atol=1e-2)
    if not bool(is_unit.all()):
        raise UnsupportedModelError(
            "The vectors of the full depth must have unit length to align others to them, one has "
            f"{float(lengths[~is_unit][0]):.3g}. Add sentence_transformers.sentence_transformer.modules.Normalize() to "
            "the model."
        )


def placed_last(modules: Mapping[str, nn.Module], added: Sequence[nn.Module]) -> dict[str, nn.Module]:
    """Modules with others behind them, but before a truncation that leaves the dim to each call.

    Names stay, because the host knows by them which arguments a module takes; that of the truncation is a new one.

    Example:
        >>> list(placed_last({"0": torch.nn.Identity(), "1": Truncation()}, [torch.nn.Tanh()]).values())
        [Identity(), Tanh(), Truncation({'dim': None})]
    """
    placed = dict(modules)
    name, last = placed.popitem()
    is_tail = isinstance(last, Truncation) and last.dim is None
    if not is_tail:
        placed[name] = last
    for module in (*added, last) if is_tail else added:
        placed[free_name(placed)] = module
    return placed
