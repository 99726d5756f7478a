"""Slow and obvious: the formulas again, in plain Python. Imports nothing of ours."""

import math


def truncate(vector, dim):
    """First coordinates, then unit length."""
    cut = list(vector[:dim])
    length = math.sqrt(sum(x * x for x in cut))
    return [x / length for x in cut] if length > 0 else cut


def dot(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


def softmax(scores):
    top = max(scores)
    powers = [math.exp(s - top) for s in scores]
    return [p / sum(powers) for p in powers]


def kl(p, q):
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


def distribution_loss(student, teacher, temperature):
    rows = [
        kl(softmax([x / temperature for x in t]), softmax([x / temperature for x in s]))
        for s, t in zip(student, teacher, strict=True)
    ]
    return sum(rows) / len(rows)


def info_nce(anchors, candidates, scale=20.0):
    """MultipleNegativesRankingLoss with cosine: candidate i is the right one for anchor i."""
    total = 0.0
    for i, anchor in enumerate(anchors):
        a = truncate(anchor, len(anchor))
        scores = [scale * dot(a, truncate(c, len(c))) for c in candidates]
        total -= math.log(softmax(scores)[i])
    return total / len(anchors)


def elastic_loss(anchors, candidates, layers, sizes, distillation_weight, cross_size_weight, temperature):
    """``anchors[layer][row]`` and ``candidates[layer][row]`` are vectors; the last of ``layers`` is the deepest."""
    deepest = layers[-1]
    width = len(anchors[deepest][0])

    def cut(rows, dim):
        return [truncate(row, dim) for row in rows]

    def scores(rows, columns):
        return [[dot(row, column) for column in columns] for row in rows]

    full = scores(cut(anchors[deepest], width), cut(candidates[deepest], width))
    total = info_nce(anchors[deepest], candidates[deepest])
    smaller = 0.0
    for layer, dim in sizes:
        a, c = cut(anchors[layer], dim), cut(candidates[layer], dim)
        smaller += info_nce(a, c)
        smaller += distillation_weight * distribution_loss(scores(a, c), full, temperature)
        if layer != deepest:
            deep = cut(candidates[deepest], dim)
            smaller += cross_size_weight * distribution_loss(scores(a, deep), full, temperature)
    return total + smaller / len(sizes)
