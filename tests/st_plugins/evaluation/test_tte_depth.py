import numpy as np
import pytest
from scipy.stats import mannwhitneyu

import reference
from conftest import TEXTS
from st_plugins.errors import InputError, ShapeError
from st_plugins.evaluation import TteDepthEvaluator
from st_plugins.evaluation.tte_depth import compare_depths, tte_depths

RANDOM = np.random.default_rng(0)


HALF_ROOT = np.sqrt(3) / 2


@pytest.mark.parametrize(("embeddings", "cosine", "chord"), [
    (np.eye(4), [1.0] * 4, [2 - np.sqrt(2)] * 4),
    ([[1.0, 0.0], [-2.0, 0.0]], [0.0, 0.0], [0.0, 0.0]),
    ([[3.0, 4.0], [6.0, 8.0], [0.3, 0.4]], [2.0] * 3, [2.0] * 3),
    ([[1.0, 0.0], [0.5, HALF_ROOT]], [1.5, 1.5], [1.0, 1.0]),  # at 60 degrees the chord is the radius
    # At 0, 60 and 180 degrees: chords 1 and 2, 1 and sqrt 3, 2 and sqrt 3.
    ([[1.0, 0.0], [0.5, HALF_ROOT], [-1.0, 0.0]], [0.75, 1.0, 0.25], [0.5, 1.5 - HALF_ROOT, 1 - HALF_ROOT]),
])  # fmt: skip
def test_known_depths(embeddings, cosine, chord):
    assert tte_depths(np.array(embeddings)) == pytest.approx(np.array(cosine))
    assert tte_depths(np.array(embeddings), distance="chord") == pytest.approx(np.array(chord), abs=1e-15)


@pytest.mark.parametrize("distance", ["cosine", "chord"])
def test_as_pair_by_pair(distance):
    embeddings = RANDOM.standard_normal((20, 5))
    expected = reference.tte_depths(embeddings.tolist(), distance=distance)
    assert tte_depths(embeddings, distance=distance) == pytest.approx(np.array(expected), rel=1e-12)


def test_chords_count_the_far_less_than_cosines():
    """The chord is the root of twice the cosine distance, so by Jensen's inequality its depth is never greater."""
    embeddings = RANDOM.standard_normal((30, 4))
    mean = 2 - tte_depths(embeddings)  # of cosine distances
    assert (tte_depths(embeddings, distance="chord") >= 2 - np.sqrt(2 * mean) - 1e-12).all()
    assert not np.allclose(tte_depths(embeddings, distance="chord"), 2 - np.sqrt(2 * mean), atol=1e-3)


def test_blocks_of_rows_are_put_together(monkeypatch):
    embeddings = RANDOM.standard_normal((20, 5))
    expected = tte_depths(embeddings, distance="chord")
    monkeypatch.setattr("st_plugins.evaluation.tte_depth._ROWS_AT_ONCE", 7)
    assert tte_depths(embeddings, distance="chord") == pytest.approx(expected)
    assert tte_depths(np.empty((0, 5)), embeddings, distance="chord").shape == (0,)


@pytest.mark.parametrize("distance", ["cosine", "chord"])
@pytest.mark.parametrize("count", [7, 20])
def test_depths_in_another_corpus_also_of_the_same_size(count, distance):
    """With equal sizes the public code takes the rows of the reference for those of the texts."""
    corpus, others = RANDOM.standard_normal((20, 5)) + 1, RANDOM.standard_normal((count, 5))
    expected = reference.tte_depths(others.tolist(), corpus.tolist(), distance)
    assert tte_depths(others, corpus, distance=distance) == pytest.approx(np.array(expected))
    mistaken = [2 - np.mean([1 - reference.cosine(x, y) for y in others.tolist()]) for x in corpus.tolist()]
    assert len(mistaken) != count or not np.allclose(mistaken, expected, atol=1e-2)


@pytest.mark.parametrize("n", [2, 3, 10])
def test_the_pooled_q_of_the_public_code_in_closed_form(n):
    depths = np.arange(1.0, n + 1)
    assert compare_depths(depths, depths)["pooled_q"] == pytest.approx((n - 1) / (2 * n))
    assert compare_depths(depths, depths - n)["pooled_q"] == pytest.approx((n - 1) / (4 * n))
    assert compare_depths(depths, depths + n)["pooled_q"] == pytest.approx(0.5 + (n - 1) / (4 * n))


def test_q_is_the_share_of_pairs():
    depths, others = RANDOM.integers(0, 8, 30) / 8, RANDOM.integers(0, 8, 11) / 8
    pairs = [1.0 if x < y else 0.5 if x == y else 0.0 for x in depths for y in others]
    assert compare_depths(depths, others)["q"] == pytest.approx(np.mean(pairs))
    for shift, expected in ((0, 0.5), (-100, 0.0), (100, 1.0)):
        assert compare_depths(depths, depths + shift)["q"] == expected


def test_both_qs_of_equal_numbers_without_ties():
    first, second = RANDOM.standard_normal(25), RANDOM.standard_normal(25)
    metrics = compare_depths(first, second)
    assert metrics["pooled_q"] == pytest.approx(metrics["q"] / 2 + 0.25 - 1 / 100)


def test_the_p_value_is_small_where_the_texts_lie_outside():
    inside, outside = RANDOM.standard_normal(40) + 2, RANDOM.standard_normal(40)
    found = compare_depths(inside, outside)["p_value"]
    assert found == pytest.approx(mannwhitneyu(inside, outside, alternative="greater").pvalue, rel=0.05)
    assert found < 1e-6
    assert compare_depths(outside, inside)["p_value"] > 1 - 1e-6


def test_texts_of_the_corpus_itself_are_told_from_others(minilm):
    corpus = [f"The {animal} {does}." for animal in ("cat", "dog", "horse", "cow", "sheep")
              for does in ("sleeps", "eats grass", "runs across the field", "is ill")]  # fmt: skip
    corpus = [corpus[i] for i in np.random.default_rng(0).permutation(len(corpus))]
    evaluator = TteDepthEvaluator(corpus[::2], ["Income tax is due in May.", "The court adjourned.", "2 + 2 = 4"])
    assert evaluator(minilm)["q"] == 0
    assert evaluator(minilm)["p_value"] < 0.01
    assert TteDepthEvaluator(corpus[::2], corpus[1::2])(minilm)["p_value"] > 0.05


def test_the_evaluator_compares_depths_in_the_reference(plain):
    corpus, others = plain.encode(TEXTS[:3]).astype(float), plain.encode(TEXTS[3:]).astype(float)
    expected = compare_depths(tte_depths(corpus), tte_depths(others, corpus))
    assert TteDepthEvaluator(TEXTS[:3], TEXTS[3:])(plain) == pytest.approx(expected)
    by_chord = TteDepthEvaluator(TEXTS[:3], TEXTS[3:], distance="chord")
    depths = tte_depths(corpus, distance="chord"), tte_depths(others, corpus, distance="chord")
    assert by_chord(plain) == pytest.approx(compare_depths(*depths))
    assert by_chord.get_config_dict() == {"reference": 3, "texts": 2, "distance": "chord"}


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(InputError, match="A corpus must hold two texts or more for depths in it, got 1"):
        tte_depths(np.ones((1, 3)))
    with pytest.raises(InputError, match="The reference must hold one text or more for depths in it, got 0"):
        tte_depths(np.ones((1, 3)), np.ones((0, 3)))
    with pytest.raises(ShapeError, match=r"must be of one width, got \(1, 3\) and \(2, 4\)"):
        tte_depths(np.ones((1, 3)), np.ones((2, 4)))
    for refuse in (
        lambda: tte_depths(np.eye(2), distance="angle"),
        lambda: TteDepthEvaluator("ab", "cd", distance="l"),
    ):
        with pytest.raises(InputError, match='distance must be "cosine" or "chord", got'):
            refuse()
    with pytest.raises(InputError, match="reference must hold at least 2 texts, got 1"):
        TteDepthEvaluator(["a"], ["b"])
    with pytest.raises(InputError, match="texts must hold at least 1 texts, got 0"):
        TteDepthEvaluator(["a", "b"], [])
