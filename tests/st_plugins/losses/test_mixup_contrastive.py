import math

import pytest
import torch

import reference
from st_plugins.errors import LossError
from st_plugins.losses.mixup_contrastive import MixupContrastiveLoss

CLASSES = torch.tensor([3, 1, 3, 0, 1, 3])
# Which texts are positives, and which negatives, of each row: by class, and by row with one column of negatives.
BY_CLASS = (
    [[j for j in range(6) if j != i and CLASSES[j] == CLASSES[i]] for i in range(6)],
    [[j for j in range(6) if CLASSES[j] != CLASSES[i]] for i in range(6)],
)
BY_ROW = ([[i] for i in range(4)], [[j for j in range(8) if j != i] for i in range(4)])
OPTIONS = {"margin": 0.3, "alpha": 1.5, "beta": 7.0}


@pytest.fixture
def draw(monkeypatch):
    """Decides what a batch draws: the share, and whether mixtures are with the anchor."""

    def decide(share, with_anchor):
        monkeypatch.setattr(torch.distributions.Beta, "sample", lambda self: torch.tensor(share, dtype=torch.float64))
        monkeypatch.setattr(torch, "rand", lambda size: torch.tensor(0.0 if with_anchor else 1.0))

    return decide


@pytest.mark.parametrize("kind", ["multi_similarity", "contrastive"])
@pytest.mark.parametrize("with_anchor", [True, False])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("has_classes", [True, False])
def test_the_value_is_that_of_the_formula(plain, draw, kind, with_anchor, share, has_classes):
    draw(share, with_anchor)
    columns = [torch.randn(6, 5).double()] if has_classes else [torch.randn(4, 5).double() for _ in range(3)]
    loss = MixupContrastiveLoss(plain, kind=kind, mix_weight=0.7, **OPTIONS)
    expected = reference.mixup_contrastive(
        columns[0].tolist(),
        torch.cat(columns[1:] or columns).tolist(),
        *(BY_CLASS if has_classes else BY_ROW),
        kind=kind,
        weight=0.7,
        share=share,
        with_anchor=with_anchor,
        **OPTIONS,
    )
    value = loss.compute_loss_from_embeddings(columns, CLASSES if has_classes else None)
    assert value.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("kind", ["multi_similarity", "contrastive"])
@pytest.mark.parametrize("has_classes", [True, False])
def test_without_weight_it_is_the_loss_that_mixes_nothing(plain, kind, has_classes):
    columns = [torch.randn(6, 5).double()] if has_classes else [torch.randn(4, 5).double() for _ in range(3)]
    texts = torch.cat(columns[1:] or columns)
    positives, negatives = BY_CLASS if has_classes else BY_ROW
    total = 0.0
    for i, anchor in enumerate(columns[0].tolist()):
        near, far = ([reference.cosine(anchor, texts[j].tolist()) for j in side[i]] for side in (positives, negatives))
        if kind == "contrastive":
            total += sum(max(0.0, s - 0.3) for s in far) - sum(near)
        else:
            total += math.log(1 + sum(math.exp(-1.5 * (s - 0.3)) for s in near)) / 1.5
            total += math.log(1 + sum(math.exp(7 * (s - 0.3)) for s in far)) / 7
    loss = MixupContrastiveLoss(plain, kind=kind, mix_weight=0, **OPTIONS)
    value = loss.compute_loss_from_embeddings(columns, CLASSES if has_classes else None)
    assert value.item() == pytest.approx(total / len(columns[0]), rel=1e-12)


def test_a_value_by_hand(plain, draw):
    """Two pairs at right angles, share 1/2: a mixture with the anchor lies at 45 degrees to it."""
    draw(0.5, with_anchor=True)
    pairs = [torch.eye(2).double(), torch.eye(2).double()]
    value = MixupContrastiveLoss(plain, kind="contrastive", mix_weight=0.4).compute_loss_from_embeddings(pairs)
    # Clean: 1 attracted, 0 below the margin. Mixed: half of it attracted, half of what is above the margin repelled.
    assert value.item() == pytest.approx(-1 + 0.4 * (-0.5 * math.sqrt(0.5) + 0.5 * (math.sqrt(0.5) - 0.5)))
    loss = MixupContrastiveLoss(plain, mix_weight=0, margin=0.5, alpha=1, beta=1)
    assert loss.compute_loss_from_embeddings(pairs).item() == pytest.approx(2 * math.log(1 + math.exp(-0.5)))


@pytest.mark.parametrize("kind", ["multi_similarity", "contrastive"])
def test_the_ends_of_a_mixture_are_the_parts_of_the_clean_loss(plain, draw, kind):
    columns = [torch.randn(4, 5).double() for _ in range(3)]
    clean = MixupContrastiveLoss(plain, kind=kind, mix_weight=0, **OPTIONS).compute_loss_from_embeddings(columns)
    loss = MixupContrastiveLoss(plain, kind=kind, mix_weight=1, **OPTIONS)
    mixed = []
    for share in (1.0, 0.0):
        draw(share, with_anchor=False)
        mixed.append(loss.compute_loss_from_embeddings(columns) - clean)
    assert sum(mixed).item() == pytest.approx(clean.item(), rel=1e-12)


def test_exchanging_the_texts_and_their_shares_exchanges_nothing(plain):
    """v = share x + (1 - share) n is the same text from both sides."""
    from st_plugins.losses.mixup_contrastive import _length

    x, n = (torch.nn.functional.normalize(torch.randn(3, 5).double(), dim=1) for _ in range(2))
    cosines = (x * n).sum(dim=1)
    for share in (0.2, 0.5):
        length = (share * x + (1 - share) * n).norm(dim=1)
        assert torch.allclose(_length(cosines, share), length, atol=1e-14)
        assert torch.allclose(_length(cosines, 1 - share), (share * n + (1 - share) * x).norm(dim=1), atol=1e-14)


def test_gradients_are_those_of_mixed_embeddings(plain, draw):
    draw(0.3, with_anchor=False)
    columns = [torch.randn(3, 4, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    loss = MixupContrastiveLoss(plain, **OPTIONS)
    assert torch.autograd.gradcheck(lambda *given: loss.compute_loss_from_embeddings(list(given)), columns)


def test_shares_are_drawn_anew_for_every_batch_from_the_generator_of_torch(plain):
    columns = [torch.randn(4, 5) for _ in range(2)]
    loss = MixupContrastiveLoss(plain)
    torch.manual_seed(3)
    values = [loss.compute_loss_from_embeddings(columns).item() for _ in range(8)]
    assert len(set(values)) == 8
    torch.manual_seed(3)
    assert [loss.compute_loss_from_embeddings(columns).item() for _ in range(8)] == values


@pytest.mark.parametrize("kind", ["multi_similarity", "contrastive"])
def test_anchors_without_positives_or_negatives_and_opposite_texts_stay_finite(plain, draw, kind):
    loss = MixupContrastiveLoss(plain, kind=kind, beta=1000.0)
    opposite = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [1.0, 0.0]], requires_grad=True)
    for with_anchor in (True, False):
        draw(0.5, with_anchor)
        for classes in ([0, 1, 2], [0, 0, 0], [0, 0, 1]):
            value = loss.compute_loss_from_embeddings([opposite], torch.tensor(classes))
            value.backward()
            assert torch.isfinite(value)
            assert torch.isfinite(opposite.grad).all()


def test_lengths_and_rotations_do_not_matter(plain, draw):
    draw(0.4, with_anchor=False)
    loss = MixupContrastiveLoss(plain)
    texts = torch.randn(6, 8).double()
    turn = torch.linalg.qr(torch.randn(8, 8).double())[0]
    value = loss.compute_loss_from_embeddings([texts], CLASSES)
    other = loss.compute_loss_from_embeddings([3 * texts @ turn], CLASSES)
    assert other.item() == pytest.approx(value.item(), rel=1e-12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "triplet"}, 'kind must be "multi_similarity" or "contrastive", got \'triplet\''),
        ({"mix_weight": -1}, "mix_weight must be a number >= 0, got -1"),
        ({"mix_alpha": 0}, "mix_alpha must be > 0, got 0"),
        ({"alpha": 0}, "^alpha must be > 0, got 0"),
        ({"beta": 0}, "beta must be > 0, got 0"),
        ({"margin": 1.5}, "margin must be a cosine, from -1 to 1, got 1.5"),
    ],
)
def test_options_out_of_range_are_refused(plain, options, message):
    with pytest.raises(LossError, match=message):
        MixupContrastiveLoss(plain, **options)


def test_labels_and_columns_that_do_not_belong_together_are_refused(plain):
    loss = MixupContrastiveLoss(plain)
    with pytest.raises(LossError, match="or one column of texts with labels, got 1 columns without labels. Remove the"):
        loss.compute_loss_from_embeddings([torch.eye(3)])
    with pytest.raises(LossError, match="got 2 columns with labels"):
        loss.compute_loss_from_embeddings([torch.eye(3)] * 2, torch.arange(3))
