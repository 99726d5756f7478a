"""A tiny model with exits and many texts, for the tests of exits."""

import itertools

import numpy as np

import conftest


def train(model):
    """As if trained at every layer."""
    model[0].add_sizes([(layer, dim) for layer in (1, 2, 3, 4) for dim in (8, 16)])
    return model.eval()


def texts(count, seed=0):
    """Distinct texts of 1 to 8 words."""
    rng = np.random.default_rng(seed)
    drawn = (" ".join(rng.choice(conftest.WORDS, rng.integers(1, 9))) for _ in itertools.count())
    found = {}
    while len(found) < count:
        found[next(drawn)] = None
    return list(found)
