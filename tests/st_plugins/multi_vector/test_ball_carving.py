import numpy as np

from st_plugins.multi_vector import carve_balls
from st_plugins.multi_vector.token_rows import maxsim_scores


def unit(shape, seed=0):
    drawn = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    return drawn / np.linalg.norm(drawn, axis=-1, keepdims=True)


def test_groups_are_taken_in_order():
    tokens = np.array([[1.0, 0.0], [0.0, 1.0], [0.8, 0.6], [0.6, 0.8]])
    # The third is near the first and the fourth, and the first takes it.
    assert np.allclose(carve_balls(tokens, 0.7), [[1.8, 0.6], [0.6, 1.8]])


def test_scores_of_sums_are_at_most_exact():
    documents = [unit((n, 3), n) for n in range(1, 30)]
    for seed in range(20):
        query = unit((8, 3), seed)
        carved = carve_balls(query, 0.5)
        assert len(carved) < len(query)
        assert np.allclose(carved.sum(0), query.sum(0), atol=1e-5)
        assert (maxsim_scores(carved, documents) <= maxsim_scores(query, documents) + 1e-5).all()


def test_above_every_cosine_nothing_changes():
    query = unit((8, 3))
    assert np.array_equal(carve_balls(query, 1.5), query)
    assert carve_balls(query[:0]).shape == (0, 3)
