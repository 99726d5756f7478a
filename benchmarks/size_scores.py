"""Quality of an elastic model at every layer and dim, from one run of the encoder per text."""

from collections.abc import Callable

import torch
from scipy.stats import spearmanr
from sentence_transformers import SentenceTransformer
from torch import Tensor
from torch.nn.functional import normalize

from public_sets import Retrieval

Texts = list[str]
_BATCH = 64


@torch.inference_mode()
def embed_layers(model: SentenceTransformer, texts: Texts) -> Tensor:
    """Embeddings (L, N, D) of all layers, as they come out of the model's pooling; on the CPU, in the order given."""
    model.eval()
    layers = tuple(range(1, model[0].depth + 1))
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    found = []
    for start in range(0, len(order), _BATCH):
        features = model.preprocess([texts[i] for i in order[start : start + _BATCH]])
        features = {key: v.to(model.device) if isinstance(v, Tensor) else v for key, v in features.items()}
        embeddings = model({**features, "layers": layers})["sentence_embedding"].float().cpu()
        found.append(embeddings.unflatten(0, (len(layers), -1)))
    whole = torch.cat(found, dim=1)
    return whole[:, torch.tensor(order).argsort()]


def spearman(first: Tensor, second: Tensor, scores: list[float], dim: int) -> float:
    """Spearman's correlation in percent between cosines of (N, D) pairs cut to ``dim`` and graded scores."""
    cosines = (normalize(first[:, :dim], dim=1) * normalize(second[:, :dim], dim=1)).sum(1)
    return float(100 * spearmanr(cosines.numpy(), scores).statistic)


def ndcg_at_10(questions: Tensor, documents: Tensor, relevant: list[set[int]], dim: int) -> float:
    """Mean nDCG@10 in percent with binary relevance; (Q, D) against (N, D), cut to ``dim``."""
    scores = normalize(questions[:, :dim], dim=1) @ normalize(documents[:, :dim], dim=1).T
    return ndcg_of_rows(scores.topk(10).indices.tolist(), relevant)


def ndcg_of_rows(found: list[list[int]], relevant: list[set[int]]) -> float:
    """Mean nDCG@10 in percent of up to ten documents that were found for each question, the best first."""
    gains = 1 / torch.log2(torch.arange(10) + 2.0)
    total = 0.0
    for best, right in zip(found, relevant, strict=True):
        hits = torch.tensor([float(document in right) for document in best])
        total += float((hits * gains[: len(best)]).sum() / gains[: len(right)].sum())
    return 100 * total / len(relevant)


def similarity_grid(
    embed: Callable[[Texts], Tensor], pairs: tuple[Texts, Texts, list[float]], dims: list[int]
) -> dict[str, float]:
    """Spearman for every ``layer x dim``."""
    first, second = embed(pairs[0]), embed(pairs[1])
    return {
        f"{layer}x{dim}": spearman(first[layer - 1], second[layer - 1], pairs[2], dim)
        for layer in range(1, len(first) + 1)
        for dim in dims
    }


def retrieval_grid(
    embed: Callable[[Texts], Tensor], task: Retrieval, dims: list[int]
) -> tuple[dict[str, float], dict[str, float]]:
    """nDCG@10 for every ``layer x dim`` on both sides, and with full-depth documents."""
    questions, documents = embed(task.questions), embed(task.documents)
    same, crossed = {}, {}
    for layer in range(1, len(questions) + 1):
        for dim in dims:
            name = f"{layer}x{dim}"
            same[name] = ndcg_at_10(questions[layer - 1], documents[layer - 1], task.relevant, dim)
            crossed[name] = ndcg_at_10(questions[layer - 1], documents[-1], task.relevant, dim)
    return same, crossed
