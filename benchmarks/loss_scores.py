"""What a model is worth after a training: every score in percent."""

import statistics
from collections.abc import Callable

import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor
from torch.nn.functional import normalize

from public_sets import Retrieval, similarity_sets
from size_scores import ndcg_at_10, ndcg_of_rows, spearman
from st_plugins.losses import class_means

Evaluate = Callable[[SentenceTransformer], dict[str, float]]
Groups = dict[str, list[str]]
PAIRS = 300  # of STSb


def embed(model: SentenceTransformer, texts: list[str]) -> Tensor:
    return normalize(model.encode(texts, convert_to_tensor=True, batch_size=64).cpu(), dim=1)


def same_group(model: SentenceTransformer, groups: list[list[str]]) -> float:
    """Mean nDCG@10 of finding the other texts of a text's group among all."""
    texts = [text for group in groups for text in group]
    owner = [i for i, group in enumerate(groups) for _ in group]
    members: dict[int, set[int]] = {}
    for position, group in enumerate(owner):
        members.setdefault(group, set()).add(position)
    vectors = embed(model, texts)
    cosines = (vectors @ vectors.T).fill_diagonal_(-2)
    relevant = [members[group] - {position} for position, group in enumerate(owner)]
    return ndcg_of_rows(cosines.topk(10).indices.tolist(), relevant)


def similarity(model: SentenceTransformer) -> float:
    """Spearman on pairs of STSb's development split."""
    first, second, scores = (column[:PAIRS] for column in similarity_sets()["stsb"])
    vectors = embed(model, first), embed(model, second)
    return spearman(*vectors, scores, vectors[0].shape[1])


def retrieval(model: SentenceTransformer, task: Retrieval) -> float:
    questions, documents = embed(model, task.questions), embed(model, task.documents)
    return ndcg_at_10(questions, documents, task.relevant, documents.shape[1])


def length_tie(model: SentenceTransformer, groups: list[list[str]]) -> float:
    """Spearman of likeness in length with cosine, of texts of different groups: how far length counts as meaning."""
    texts = [group[0] for group in groups]
    vectors = embed(model, texts)
    lengths = torch.tensor([float(len(ids)) for ids in model.tokenizer(texts)["input_ids"]])
    first, second = torch.triu_indices(len(texts), len(texts), offset=1)
    return spearman(
        vectors[first], vectors[second], (-(lengths[first] - lengths[second]).abs()).tolist(), vectors.shape[1]
    )


class ClassScores:
    """Texts go to the class whose mean of training texts is nearest, also to the means of the model scored before."""

    def __init__(self, training: Groups, held_out: Groups) -> None:
        self.training = training
        self.held_out = held_out
        self.before: Tensor | None = None

    def __call__(self, model: SentenceTransformer) -> dict[str, float]:
        """Score one model."""
        names = list(self.training)
        means = normalize(class_means(*self._embed(model, self.training), len(names)), dim=1)
        vectors, labels = self._embed(model, self.held_out)
        scores = {"accuracy": _accuracy(vectors, labels, means)}
        if self.before is not None:
            scores["by the means of another seed"] = _accuracy(vectors, labels, self.before)
        self.before = means
        cosines = (means @ means.T)[~torch.eye(len(means), dtype=torch.bool)]
        return scores | {"cosine between classes": 100 * float(cosines.mean())}

    def _embed(self, model: SentenceTransformer, groups: Groups) -> tuple[Tensor, Tensor]:
        labels = [label for label, name in enumerate(self.training) for _ in groups[name]]
        return embed(model, [text for name in self.training for text in groups[name]]), torch.tensor(labels)


def _accuracy(vectors: Tensor, labels: Tensor, means: Tensor) -> float:
    return 100 * float(((vectors @ means.T).argmax(dim=1) == labels).float().mean())


def mean_and_spread(values: list[float]) -> str:
    """Over seeds, as a cell of a table; empty where nothing was measured."""
    if not values:
        return ""
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{spread}"
