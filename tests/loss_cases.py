"""A small batch of pairs, the gradients a loss gives on it, and models with other weights."""

import copy

import torch

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


class Nothing(torch.nn.Module):
    """A base loss without an opinion."""

    def compute_loss_from_embeddings(self, embeddings, labels):
        return 0 * embeddings[0].sum()


def tuned(base, seed, size=0.1):
    """A copy with other weights, in place of a training."""
    model = copy.deepcopy(base)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(size * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
    return model
