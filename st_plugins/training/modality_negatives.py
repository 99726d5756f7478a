"""Mines hard negatives that teach what kind of thing is asked for, besides what it is about (MM-Embed)."""

from collections.abc import Sequence
from typing import Any

from sentence_transformers import SentenceTransformer
from sentence_transformers.util import semantic_search
from torch import Tensor

from st_plugins.errors import LossError


def mine_modality_negatives(
    dataset: Any,
    model: SentenceTransformer,
    corpus: Sequence[str],
    modalities: Sequence[str],
    *,
    num_negatives: int = 1,
    range_min: int = 45,
    range_max: int = 50,
    batch_size: int = 32,
    show_progress: bool = False,
) -> Any:
    """Negatives of two kinds for each pair: too high in the wrong modality, and far enough down in the right one.

    The wanted modality is that of the positive. Of the ``range_max`` items of the corpus nearest to the anchor, without
    any of its positives, with ranks from 0:

    - of the first kind are those of another modality that rank above the positive, nearest first; if the positive is
      not among them, all of another modality;
    - of the second kind are those of the wanted modality from rank ``range_min`` on, nearest first: what ranks higher
      may well be right.

    ``num_negatives`` of each are taken. Where there are too few of the first kind, more of the second stand in. A
    modality is any word: image or text, but also a language, title or body, code or prose.

    Args:
        dataset: A ``datasets.Dataset`` whose first two columns are anchors and positives.
        model: Encodes the anchors as queries and the corpus as documents; whatever kinds of strings it takes, paths of
            pictures among them.
        corpus: Distinct strings, all positives among them.
        modalities: One per item of the corpus.
        num_negatives: Of each kind, >= 1.
        range_min: >= 0.
        range_max: Above ``range_min``.
        batch_size: Texts per batch.
        show_progress: Whether bars count the batches.

    Returns:
        datasets.Dataset: Columns of the anchor, the positive, ``negative_1`` ... ``negative_{2 num_negatives}``, those
        of the first kind first. Pairs for which there are too few are left out, as ``mine_hard_negatives`` does.

    Raises:
        LossError: If modalities are not one per item, an item comes twice, a positive is not in the corpus, a range
            is empty, or no pair is left.

    References:
        Lin et al., *MM-Embed*, https://arxiv.org/abs/2411.02571: top 50 and rank 45. There a negative of each kind is
        drawn at random. Without modalities: ``sentence_transformers.util.mine_hard_negatives``.

    Example:
        >>> from datasets import Dataset
        >>> model = SentenceTransformer("sentence-transformers/all-MiniLM-L6-v2")
        >>> corpus = ["def add(a, b)", "how to add numbers", "how to cook rice", "def cook(rice)"]
        >>> asked = Dataset.from_dict({"anchor": ["add two numbers"], "positive": ["def add(a, b)"]})
        >>> kinds = ["code", "prose", "prose", "code"]
        >>> mine_modality_negatives(asked, model, corpus, kinds, range_min=1, range_max=4)[0]["negative_1"]
        'how to add numbers'
    """
    anchors, positives = (list(dataset[column]) for column in dataset.column_names[:2])
    _check(positives, corpus, modalities, num_negatives, range_min, range_max)
    places = {item: place for place, item in enumerate(corpus)}
    owned: dict[str, set[int]] = {}
    for anchor, positive in zip(anchors, positives, strict=True):
        owned.setdefault(anchor, set()).add(places[positive])
    # One more for each positive that is left out of the ranks.
    most = range_max + max(map(len, owned.values()), default=0)
    ranked = _ranked(model, list(owned), corpus, most, batch_size=batch_size, show_progress_bar=show_progress)
    rows = []
    for anchor, positive in zip(anchors, positives, strict=True):
        wrong, right = kinds_of_negatives(
            ranked[anchor], places[positive], owned[anchor], modalities, range_min, range_max
        )
        chosen = [*wrong[:num_negatives], *right][: 2 * num_negatives]
        if len(chosen) == 2 * num_negatives:
            rows.append([anchor, positive, *(corpus[place] for place in chosen)])
    if not rows:
        raise LossError(
            f"No pair has {2 * num_negatives} negatives among the {range_max} nearest items. Take a lower range_min, a "
            "higher range_max or fewer negatives."
        )
    names = [*dataset.column_names[:2], *(f"negative_{number + 1}" for number in range(2 * num_negatives))]
    return type(dataset).from_dict(dict(zip(names, map(list, zip(*rows, strict=True)), strict=True)))


def kinds_of_negatives(
    ranked: Sequence[int],
    positive: int,
    positives: set[int],
    modalities: Sequence[str],
    range_min: int,
    range_max: int,
) -> tuple[list[int], list[int]]:
    """Both kinds of negatives of one pair, see :func:`mine_modality_negatives`.

    Args:
        ranked: Items of the corpus, nearest first.
        positive: The item of the pair.
        positives: All items that are right for the anchor.
        modalities: Of every item of the corpus.
        range_min: Rank from which the second kind starts.
        range_max: Rank at which both end.

    Returns:
        tuple: Items of the first kind and of the second, nearest first.

    Example:
        >>> kinds_of_negatives([2, 0, 1, 3], 0, {0}, ["text", "text", "image", "text"], range_min=2, range_max=4)
        ([2], [3])
    """
    above = set(ranked[: ranked.index(positive)] if positive in ranked else ranked)
    others = [item for item in ranked if item not in positives][:range_max]
    wanted = modalities[positive]
    wrong = [item for item in others if modalities[item] != wanted and item in above]
    return wrong, [item for item in others[range_min:] if modalities[item] == wanted]


def _ranked(
    model: SentenceTransformer, anchors: list[str], corpus: Sequence[str], most: int, **options: Any
) -> dict[str, list[int]]:
    """For each anchor the items of the corpus that are nearest to it, nearest first."""
    queries: Tensor
    documents: Tensor
    queries, documents = (
        encode(texts, convert_to_tensor=True, normalize_embeddings=True, **options)
        for encode, texts in ((model.encode_query, anchors), (model.encode_document, list(corpus)))
    )
    found = semantic_search(queries, documents, top_k=most)
    return {anchor: [hit["corpus_id"] for hit in hits] for anchor, hits in zip(anchors, found, strict=True)}


def _check(
    positives: Sequence[str],
    corpus: Sequence[str],
    modalities: Sequence[str],
    num_negatives: int,
    range_min: int,
    range_max: int,
) -> None:
    if len(corpus) != len(modalities):
        raise LossError(f"Each item must have one modality, got {len(corpus)} items and {len(modalities)} modalities.")
    known = set(corpus)
    if len(known) != len(corpus):
        raise LossError(
            f"Every item of the corpus must come once, {len(corpus) - len(known)} come again. "
            "Take list(dict.fromkeys(corpus))."
        )
    unknown = [positive for positive in positives if positive not in known]
    if unknown:
        raise LossError(f"Every positive must be in the corpus, {len(unknown)} are not: {unknown[:3]}. Add them.")
    if num_negatives < 1 or not 0 <= range_min < range_max:
        raise LossError(
            f"num_negatives must be at least 1, and 0 <= range_min < range_max, got {num_negatives}, {range_min} and "
            f"{range_max}."
        )
