"""Modules that round sentence embeddings, and what their vectors say about the embeddings in front of them.

A rounding has edges: an embedding within float noise of one may fall to either side, and its rounded vector is then
another one altogether. Rounded vectors therefore cannot be compared coordinate by coordinate. What can be compared is
the embedding in front: with x that of torch, and r what a graph gave, the parity check takes the x' nearest to x which
is rounded to r, and compares x' with x as it compares vectors of other models. Where all decisions agree x' = x, so
noise that decides nothing is not seen; where one differs x' lies beyond the edge, and a wrong decision far from an edge
is as large a difference as the distance to it.
"""

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize
from torch import Tensor, nn

from st_plugins.bit_planes import BitPlanes
from st_plugins.errors import InputError, ParityError
from st_plugins.model_settings import with_settings_of
from st_plugins.modules import ProductQuantization, ResidualBinarization, Truncation

ROUNDINGS = (ProductQuantization, ResidualBinarization)


def rounding_of(model: SentenceTransformer) -> Any:
    """The module that rounds the vectors of a model; None if there is none."""
    last = [module for module in model.children() if not isinstance(module, Truncation)][-1]
    return last if isinstance(last, ROUNDINGS) else None


def has_float_queries(model: SentenceTransformer) -> bool:
    """Whether a model rounds documents only, so that queries need a graph of their own."""
    rounding = rounding_of(model)
    return rounding is not None and rounding.float_queries


def models_by_task(model: SentenceTransformer) -> dict[str, SentenceTransformer]:
    """What a model with float queries does to a query and to a document, as two models that ask for no task.

    Args:
        model: See :func:`has_float_queries`; left as it is, weights are shared.
    """
    rounding = rounding_of(model)
    rounds_all = copy.copy(rounding)
    rounds_all.float_queries = False
    documents, queries = [], []
    for module in model.children():
        documents.append(rounds_all if module is rounding else module)
        queries += _unrounded(rounding) if module is rounding else [module]
    return {"query": _with_modules(model, queries), "document": _with_modules(model, documents)}


class Unrounding:
    """Finds the embeddings in front of a rounding that explain rounded ones.

    Args:
        model: A plain model that ends in a rounding; left as it is.
    """

    def __init__(self, model: SentenceTransformer) -> None:
        *front, module = model.children()
        self._front = _with_modules(model, front)
        self._module: Any = copy.deepcopy(module).double()
        self._explain = _nearest_to_codes if isinstance(module, ProductQuantization) else _nearest_to_bits

    def encode(self, texts: list[str], **options: Any) -> NDArray[Any]:
        """The embeddings (B, D) in front of the rounding, by torch."""
        return self._front.encode(texts, **options)

    @torch.no_grad()
    def explain(self, embeddings: NDArray[Any], rounded: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any], int]:
        """What to compare.

        Args:
            embeddings: (B, D), from :meth:`encode`.
            rounded: (B, m), what a graph gave for the same texts.

        Returns:
            tuple: x (B, m), rotated as the module does before it rounds; x' (B, m), see the head of this file, with
            what ``rounded`` itself is off the numbers the module rounds to; and how many rows were decided otherwise.

        Raises:
            ParityError: If a vector is none that the module could give.
        """
        unit = F.normalize(torch.from_numpy(embeddings).double(), dim=-1)
        given = torch.from_numpy(rounded).double()
        before, moves, noise = self._explain(self._module, unit, given)
        changed = int((moves != 0).any(dim=-1).sum())
        return before.numpy(), (before + moves + noise).numpy(), changed


def _nearest_to_codes(module: ProductQuantization, unit: Tensor, given: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """x, the smallest move towards the centroids that were chosen, and how far off these are; (B, D) each.

    A point is nearer to centroid a than to c beyond the plane half-way between them; the move is that to the farthest
    of these planes.
    """
    rotated = module.rotate(unit)
    cut, parts = (rows.unflatten(-1, (module.parts, -1)).transpose(0, 1) for rows in (rotated, given))  # (M, B, S)
    chosen = _rows(module.codebooks, _distances(parts, module.codebooks).argmin(dim=-1))
    apart = _distances(chosen, module.codebooks)  # (M, B, K)
    excess = (cut - chosen).square().sum(dim=-1, keepdim=True) - _distances(cut, module.codebooks).square()
    steps = torch.where(apart > 0, excess / (2 * apart).clamp(min=1e-300), 0.0)  # > 0 where c is nearer
    farthest = steps.argmax(dim=-1)  # (M, B)
    directions = F.normalize(chosen - _rows(module.codebooks, farthest), dim=-1, eps=1e-300)
    moves = steps.gather(-1, farthest[..., None]).clamp(min=0) * directions  # (M, B, S)
    return rotated, moves.transpose(0, 1).flatten(1), (parts - chosen).transpose(0, 1).flatten(1)


def _nearest_to_bits(module: ResidualBinarization, unit: Tensor, given: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """W f, how far it must go for the signs that were chosen, and how far off these are; (B, m) each.

    Every bit is judged by the number whose sign it is, computed from the bits before it as they were chosen.
    """
    try:
        planes = BitPlanes.of(given.numpy(), bits=module.bits)
    except InputError as error:
        raise ParityError(f"A graph that rounds must give codes. {error}") from None
    signs = torch.from_numpy(np.unpackbits(planes.planes, axis=-1, count=module.code_dimension)) * 2.0 - 1  # (B, P, m)
    numbers = module.binarize(unit)
    moves, code, first = torch.zeros_like(numbers), torch.zeros_like(numbers), numbers
    for step in range(module.bits):
        if step:
            numbers = module.left_over(unit, code, step)
        bit = signs[:, step].to(numbers)
        wrong = torch.where(bit * numbers < 0, -numbers, 0.0)
        moves = torch.where(wrong.abs() > moves.abs(), wrong, moves)
        code = code + 2.0**-step * bit
    return first, moves, given - F.normalize(code, dim=-1)


def _distances(rows: Tensor, codebooks: Tensor) -> Tensor:
    """(M, B, K) of (M, B, S) and (M, K, S)."""
    return torch.cdist(rows, codebooks, compute_mode="donot_use_mm_for_euclid_dist")


def _rows(codebooks: Tensor, codes: Tensor) -> Tensor:
    """(M, B, S), the centroids of codes (M, B)."""
    return codebooks[torch.arange(len(codebooks))[:, None], codes]


def _unrounded(module: Any) -> list[nn.Module]:
    """What a float query goes through."""
    layer = module.rotate if isinstance(module, ProductQuantization) else module.binarize
    weight, bias = layer.weight.detach(), None if layer.bias is None else layer.bias.detach()
    rows, columns = weight.shape
    dense = Dense(
        columns,
        rows,
        bias=bias is not None,
        activation_function=nn.Identity(),
        init_weight=weight.clone(),
        init_bias=None if bias is None else bias.clone(),
    )
    return [Normalize(), dense] if isinstance(module, ProductQuantization) else [Normalize(), dense, Normalize()]


def _with_modules(model: SentenceTransformer, modules: Sequence[Any]) -> SentenceTransformer:
    return with_settings_of(model, {str(place): module for place, module in enumerate(modules)})
