import math

import pytest
import torch

import reference
from st_plugins.errors import ExitError, NonFiniteError, ShapeError
from st_plugins.exits.risks import OverlapRisk, cosine_loss, losses_at_exits, risk_of


def cosine(a, b):
    return reference.dot(reference.truncate(a, len(a)), reference.truncate(b, len(b)))


def test_the_cosine_loss_is_the_formula():
    exits, full = torch.randn(20, 5), torch.randn(20, 5)
    expected = [min(1, 1 - cosine(a, b)) for a, b in zip(exits.tolist(), full.tolist(), strict=True)]
    assert cosine_loss(exits, full).tolist() == pytest.approx(expected, abs=1e-6)
    assert max(expected) == 1  # some are beyond a right angle
    assert cosine_loss(exits, 3 * exits).tolist() == pytest.approx([0] * 20, abs=1e-6)


@pytest.mark.parametrize("k", [1, 3, 12])
def test_the_overlap_loss_is_counted(k):
    corpus, exits, full = torch.randn(12, 4), torch.randn(300, 4), torch.randn(300, 4)
    losses = OverlapRisk(corpus, k)(exits, full)
    for row in range(0, 300, 7):
        near = [
            set(sorted(range(12), key=lambda d, e=e: -cosine(e[row].tolist(), corpus[d].tolist()))[:k])
            for e in (exits, full)
        ]
        assert losses[row].item() == pytest.approx(1 - len(near[0] & near[1]) / k)
    assert OverlapRisk(corpus.numpy(), k)(full, full).abs().max() == 0


def test_equal_documents_are_told_apart_by_their_place():
    risk = OverlapRisk(torch.tensor([[1.0, 0.0], [2.0, 0.0], [1.0, 0.0]]), k=1)
    assert risk(torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.1]])).item() == 0


def test_corpora_that_cannot_be_are_refused():
    with pytest.raises(ExitError, match="k must be an integer from 1 to 3, the size of the corpus, got 4"):
        OverlapRisk(torch.randn(3, 2), k=4)
    with pytest.raises(ExitError, match="got 0"):
        OverlapRisk(torch.randn(3, 2), k=0)
    with pytest.raises(ShapeError, match=r"must be embeddings \(M, D\), got shape \(3,\)"):
        OverlapRisk(torch.randn(3))
    with pytest.raises(ShapeError, match="The corpus has width 2, the texts 4"):
        OverlapRisk(torch.randn(3, 2), k=1)(torch.randn(1, 4), torch.randn(1, 4))


def test_a_document_of_nan_would_be_among_the_nearest_and_is_refused():
    documents = torch.eye(3)
    documents[1, 2] = math.nan
    with pytest.raises(NonFiniteError, match="this batch of 3 .float32. holds NaN, .* at row 1"):
        OverlapRisk(documents, k=2)


def test_risks_have_names():
    def mine(exits, full):
        return torch.zeros(len(exits))

    assert risk_of("cosine") == ("cosine", cosine_loss)
    assert risk_of(mine) == ("mine", mine)
    assert risk_of(OverlapRisk(torch.randn(9, 2), k=5))[0] == "overlap@5"
    with pytest.raises(ExitError, match="risk must be 'cosine' or a function .* got 'dot'"):
        risk_of("dot")
    with pytest.raises(ExitError, match="got 3"):
        risk_of(3)


def test_each_exit_is_compared_with_the_last():
    embeddings = torch.randn(3, 7, 4)
    losses = losses_at_exits("cosine", cosine_loss, embeddings)
    assert losses.dtype == torch.float64
    for index in range(3):
        assert torch.equal(losses[index], cosine_loss(embeddings[index], embeddings[2]).double())


@pytest.mark.parametrize(
    ("loss", "error", "message"),
    [
        (lambda exits, full: torch.zeros(2), ShapeError, r"mine must return one loss per text, \(7,\), got \(2,\)"),
        (lambda exits, full: torch.full((7,), 1.5), ExitError, r"mine must return losses from 0 to 1, got 1.5 to 1.5"),
        (lambda exits, full: torch.full((7,), -0.1), ExitError, "The guarantee holds for bounded losses only"),
        (lambda exits, full: torch.full((7,), math.nan), ExitError, "got nan to nan"),
    ],
)
def test_losses_out_of_range_are_refused(loss, error, message):
    with pytest.raises(error, match=message):
        losses_at_exits("mine", loss, torch.randn(3, 7, 4))
