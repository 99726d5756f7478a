import pytest
import torch
from sentence_transformers.sentence_transformer import losses as host

from loss_cases import batch
from st_plugins.errors import LossError
from st_plugins.losses import ElasticLoss, EspressoLoss, StarbucksLoss, TwoDMatryoshkaLoss
from st_plugins.losses.batch_checks import check_classes, check_comparison, check_first_batch, check_numbers

TWO_COLUMNS = [torch.eye(3), torch.eye(3)]


def test_a_batch_that_can_be_learned_from_passes(model):
    check_first_batch(host.MultipleNegativesRankingLoss(model), TWO_COLUMNS, None)
    check_first_batch(host.CoSENTLoss(model), TWO_COLUMNS, torch.tensor([0.1, 0.2, 0.9]))
    check_first_batch(host.BatchAllTripletLoss(model), [torch.eye(3)], torch.tensor([0, 0, 1]))


def test_one_pair_is_enough_for_a_loss_that_compares_within_it(model):
    check_first_batch(host.CosineSimilarityLoss(model), [torch.eye(1, 3)] * 2, torch.tensor([0.5]))


@pytest.mark.parametrize(
    ("loss", "columns", "labels", "message"),
    [
        (
            host.MultipleNegativesRankingLoss,
            [torch.eye(1, 3)] * 2,
            None,
            "than one text per batch .*, got a batch of one",
        ),
        (host.CoSENTLoss, TWO_COLUMNS, None, r"CoSENTLoss must be able .* got 2 text columns and no labels; it says"),
        (host.CoSENTLoss, TWO_COLUMNS, torch.ones(2), "labels must have one entry per text, got 2 for 3 texts"),
        (host.CoSENTLoss, TWO_COLUMNS, torch.tensor([1.0, torch.nan, 0]), "labels must be finite numbers, got NaN"),
        (host.TripletLoss, TWO_COLUMNS, None, "TripletLoss must be able to use the columns .* got 2 text columns"),
    ],
)
def test_one_that_cannot_is_refused(model, loss, columns, labels, message):
    with pytest.raises(LossError, match=message):
        check_first_batch(loss(model), columns, labels)


def test_memory_that_runs_out_is_not_blamed_on_the_labels(model, monkeypatch):
    loss = host.MultipleNegativesRankingLoss(model)

    def out_of_memory(*_):
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(loss, "compute_loss_from_embeddings", out_of_memory)
    with pytest.raises(torch.OutOfMemoryError, match="no room"):
        check_first_batch(loss, TWO_COLUMNS, None)


def test_a_comparison_needs_two_rows_or_a_value():
    check_comparison("ThisLoss", 1, torch.tensor(0.3))
    check_comparison("ThisLoss", 2, torch.tensor(0.0))
    with pytest.raises(LossError, match="ThisLoss must have more than one text per batch .* got a batch of one. Set"):
        check_comparison("ThisLoss", 1, torch.tensor(0.0))


def test_classes_are_integers_one_per_row_and_among_those_there_are():
    assert check_classes("ThisLoss", torch.tensor([7, 0], dtype=torch.int32), 2).dtype == torch.int64
    with pytest.raises(LossError, match="ThisLoss must have one integer per row, .* for 3 rows got labels of torch"):
        check_classes("ThisLoss", torch.tensor([7, 0]), 3)
    with pytest.raises(LossError, match="ThisLoss must have labels from 0 to 6, as it was given 7 classes, got 0 to 7"):
        check_classes("ThisLoss", torch.tensor([7, 0]), 2, 7)


def test_only_nan_is_no_number():
    check_numbers("The loss", [torch.tensor(float("inf")), torch.zeros(2, 2)])
    with pytest.raises(LossError, match="The loss must be numbers, got NaN. Look for NaN among the labels"):
        check_numbers("The loss", [torch.zeros(2, 2), torch.tensor([0, float("nan")])])


@pytest.mark.parametrize("mini_batch_size", [None, 2])
@pytest.mark.parametrize("kind", [ElasticLoss, EspressoLoss, StarbucksLoss, TwoDMatryoshkaLoss])
def test_every_loss_checks_its_first_batch_and_every_value(model, kind, mini_batch_size):
    options = (
        {"dim": 8} if kind is EspressoLoss else {"dims": [8]} if kind is TwoDMatryoshkaLoss else {"sizes": [(2, 8)]}
    )
    loss = kind(model, host.MultipleNegativesRankingLoss(model), mini_batch_size=mini_batch_size, **options)
    one_pair = [model.preprocess(["the cat"]), model.preprocess(["a dog"])]
    with pytest.raises(LossError, match="got a batch of one"):
        loss(one_pair)
    assert loss(batch(model)) > 0
    loss(one_pair)  # the rest of an epoch
    model.train()  # in evaluation the model itself refuses NaN
    with torch.no_grad():
        model[0].model.embeddings.word_embeddings.weight.fill_(torch.nan)
    with pytest.raises(LossError, match="The embeddings must be numbers, got NaN"):
        loss(batch(model))


def test_a_loss_that_is_nan_though_its_embeddings_are_not_is_refused(model, monkeypatch):
    base = host.MultipleNegativesRankingLoss(model)
    loss = ElasticLoss(model, base, sizes=[(2, 8)])
    loss(batch(model))
    monkeypatch.setattr(base, "scale", float("nan"))
    with pytest.raises(LossError, match="The loss must be numbers, got NaN"):
        loss(batch(model))
