"""A small batch of pairs, and the gradients a loss gives on it."""

ANCHORS = ["the cat sat", "a dog ran fast", "the red tree", "it is slow", "blue mat", "a cat and a dog"]
POSITIVES = ["a cat sat on the mat", "the dog", "tree", "it was slow and it was blue", "the mat is blue", "cat dog"]


def batch(model):
    return [model.preprocess(ANCHORS), model.preprocess(POSITIVES)]


def embeddings_by_layer(model, layers):
    """For each column, layer -> rows of numbers."""
    return [
        {layer: model.encode(side, layer=layer, allow_untrained=True).tolist() for layer in layers}
        for side in (ANCHORS, POSITIVES)
    ]


def gradients(loss, features, labels=None):
    loss.model.zero_grad()
    value = loss(features, labels)
    value.backward()
    return value.item(), {n: p.grad.clone() for n, p in loss.model.named_parameters() if p.grad is not None}
