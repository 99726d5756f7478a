"""Lets a new model search the index of an old one: a map from new to old embeddings, fitted to texts without labels."""

from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize
from torch import Tensor, nn

from st_plugins.alignment import placed_last
from st_plugins.errors import InputError, ShapeError
from st_plugins.finite_vectors import check_finite
from st_plugins.linear_maps import FOLDS, Moments, held_out_rows, ridge_map
from st_plugins.model_settings import with_settings_of
from st_plugins.modes import evaluating
from st_plugins.modules import ResidualMap, Truncation

Method = Literal["procrustes", "ridge", "mlp"]
METHODS = get_args(Method)
# Of the small network; after every twenty it is tried on the texts held out, and the best one is kept.
_STEPS = 300
_BATCH = 256


def adapt_to_index(
    model: SentenceTransformer,
    old: Any,
    texts: Sequence[str],
    *,
    queries: Sequence[str] = (),
    method: Method = "ridge",
    batch_size: int = 64,
    show_progress: bool = False,
) -> SentenceTransformer:
    """The new model, giving vectors that search an index which the old model made; nothing is embedded again.

    With x_n and y_n the embeddings of text n by the new and the old model, y_n scaled to unit length, D and E their
    widths, the vector of a text becomes ``f(x) / ||f(x)||`` with

    - ``"procrustes"``: ``f(x) = W x``, W with orthonormal rows or columns, nearest to all pairs. Where E >= D and x
      has unit length, new vectors keep their cosines with one another exactly. It needs as many texts as the narrower
      width has coordinates. Take it if you have them: where the texts are not those of the index, it kept more than
      the others in every comparison of ``benchmarks/README.md``.
    - ``"ridge"``: ``f(x) = W x + b``, least squares with the strength that is best on every fifth text, then from
      all of them, as in :func:`st_plugins.align_layers`.
    - ``"mlp"``: that line and a small network beside it (:class:`~st_plugins.modules.ResidualMap`), trained for the
      cosine with the old vector. It keeps the state that is best on every fifth text, at first the line, so on those it
      is never worse.

    The documents stay what the old model made of them, and so does what it confused. The map buys time: move to an
    index of the new model when you can. It can be no better than the texts resemble what will be searched; take
    documents of the index, and real questions as ``queries``.

    Args:
        model: The new one; left as it is, the result shares its weights. Of an elastic model the full depth is fitted,
            other layers go through the same map.
        old: The old model, or anything with ``encode_query`` and ``encode_document``; or its vectors (n + q, E), first
            of ``texts``, then of ``queries``: the index itself has those of its documents.
        texts: n texts that both models embed as documents.
        queries: q texts that both models embed as queries, with the prompts they have for these.
        method: See above.
        batch_size: Texts per batch.
        show_progress: Whether bars count the batches.

    Returns:
        SentenceTransformer: With a ``Dense`` and a ``Normalize`` behind its last module, which load anywhere, bake and
        export; ``"mlp"`` has a ``ResidualMap``. Compare its vectors by cosine. It has a fingerprint of its own, because
        its vectors are not those of the old model: say so where an index is opened
        (``ElasticVectorStore.load_local(..., on_mismatch="warn")``).

    Raises:
        InputError: If there is no such method, fewer than ten different texts, or for Procrustes fewer than the
            narrower width.
        NonFiniteError: If a vector of either model holds NaN or infinity.
        ShapeError: If there is not one old vector per text.

    References:
        Schönemann, *A generalized solution of the orthogonal Procrustes problem* (1966). Compatible representations:
        Shen et al., https://arxiv.org/abs/2003.11942. Maps between embedding models: Vejendla, *Drift-Adapter*,
        https://arxiv.org/abs/2509.23471.

    Example:
        >>> new = SentenceTransformer("sentence-transformers/all-MiniLM-L6-v2")
        >>> old = st_plugins.bake(st_plugins.load("minilm-elastic"), dim=64)
        >>> index = old.encode_document(["a list is sorted", "it rains"])
        >>> texts = [f"{count} {thing}" for count in range(20) for thing in ("lists", "rains", "questions")]
        >>> upgraded = adapt_to_index(new, old, texts, queries=["How do I sort a list?"])
        >>> int((upgraded.encode_query("sorting a list") @ index.T).argmax())
        0
    """
    if method not in METHODS:
        raise InputError(f"method must be one of {', '.join(METHODS)}, got {method!r}.")
    rows = _different_rows(texts, queries)
    options = {"batch_size": batch_size, "show_progress_bar": show_progress}
    bare = dict(model.named_children())
    name, tail = list(bare.items())[-1]
    if isinstance(tail, Truncation) and tail.dim is None:
        del bare[name]
    whole = with_settings_of(model, bare)
    whole.truncate_dim = None
    y = _vectors(old, texts, queries, options)
    if y.ndim != 2 or len(y) != len(texts) + len(queries):
        raise ShapeError(
            f"old must give one vector for each of {len(texts)} texts and then of {len(queries)} queries, "
            f"got an array of shape {tuple(y.shape)}."
        )
    with evaluating(whole):
        x = _vectors(whole, texts, queries, options)[rows]
    for vectors in (x, y):
        check_finite({"sentence_embedding": vectors})
    y = F.normalize(y[rows], dim=-1)
    parameter = next(model.parameters())
    added = [module.to(parameter.device, parameter.dtype) for module in _fitted(x, y, method)]
    adapted = with_settings_of(model, placed_last(dict(model.named_children()), added))
    adapted.truncate_dim = None
    return adapted


def _different_rows(texts: Sequence[str], queries: Sequence[str]) -> list[int]:
    """Each different text once, sorted, so that neither order nor repetition matters."""
    for name, given in (("texts", texts), ("queries", queries)):
        if isinstance(given, str) or not all(isinstance(text, str) for text in given):
            raise InputError(f"{name} must be a sequence of texts, got {type(given).__name__}.")
    keyed = [("document", text) for text in texts] + [("query", text) for text in queries]
    rows = [row for _, row in sorted({key: row for row, key in enumerate(keyed)}.items())]
    if len(rows) < 2 * FOLDS:
        raise InputError(f"There must be at least {2 * FOLDS} different texts, got {len(rows)}. Take some thousand.")
    return rows


def _vectors(encoder: Any, texts: Sequence[str], queries: Sequence[str], options: dict[str, Any]) -> Tensor:
    """(n + q, width) in double precision, on the CPU; vectors that are given are taken."""
    if not hasattr(encoder, "encode_document"):
        return torch.as_tensor(np.asarray(encoder), dtype=torch.float64)
    parts = [encoder.encode_document(list(texts), **options)] if texts else []
    parts += [encoder.encode_query(list(queries), **options)] if queries else []
    return torch.cat([torch.as_tensor(part).double().cpu() for part in parts])


def _fitted(x: Tensor, y: Tensor, method: Method) -> list[nn.Module]:
    """The modules that map x (n, D) to y (n, E)."""
    is_held_out = held_out_rows(len(x))
    held_out, rest = (Moments.of(x[part, None], y[part]).map(0) for part in (is_held_out, ~is_held_out))
    if method == "procrustes":
        narrower = min(x.shape[1], y.shape[1])
        if len(x) < narrower:
            raise InputError(
                f"Procrustes needs at least as many different texts as the narrower vectors have coordinates, "
                f'{narrower}, got {len(x)}. Take more texts, or method="ridge".'
            )
        return _line((held_out + rest).rotate(), None)
    weight, bias = ridge_map(held_out, rest)
    return _line(weight, bias) if method == "ridge" else [_network(x, y, is_held_out, weight, bias)]


def _line(weight: Tensor, bias: Tensor | None) -> list[nn.Module]:
    dense = Dense(weight.shape[1], weight.shape[0], bias=bias is not None, activation_function=nn.Identity())
    with torch.no_grad():
        dense.linear.weight.copy_(weight)
        if bias is not None:
            dense.linear.bias.copy_(bias)
    return [dense, Normalize()]


def _network(x: Tensor, y: Tensor, is_held_out: Tensor, weight: Tensor, bias: Tensor) -> ResidualMap:
    """A short fit that starts at the ridge solution; random numbers of others are left alone."""
    width = x.shape[1]
    x, y = x.float(), y.float()
    # inference_mode of a caller would leave nothing to differentiate.
    with torch.random.fork_rng(devices=[]), torch.inference_mode(False), torch.enable_grad():
        torch.manual_seed(0)
        network = ResidualMap(width, y.shape[1], hidden_dimension=2 * width)
        with torch.no_grad():
            network.line.weight.copy_(weight)
            network.line.bias.copy_(bias)
        optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
        rows = (~is_held_out).nonzero().squeeze(1)
        best, kept = _cosine(network, x[is_held_out], y[is_held_out]), _copied(network)
        for step in range(1, _STEPS + 1):
            batch = rows[torch.randperm(len(rows))[:_BATCH]]
            optimizer.zero_grad()
            mapped = network({"sentence_embedding": x[batch]})["sentence_embedding"]
            (1 - (mapped * y[batch]).sum(1)).mean().backward()
            optimizer.step()
            if step % 20:
                continue
            found = _cosine(network, x[is_held_out], y[is_held_out])
            if found > best:
                best, kept = found, _copied(network)
        network.load_state_dict(kept)
    return network


@torch.no_grad()
def _cosine(network: ResidualMap, x: Tensor, y: Tensor) -> float:
    return float((network({"sentence_embedding": x})["sentence_embedding"] * y).sum(1).mean())


def _copied(network: ResidualMap) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}
