import math

import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import losses as host

import reference
from loss_cases import ANCHORS, POSITIVES, batch, gradients
from st_plugins.errors import LossError
from st_plugins.losses import MomentumQueueLoss


def pairs(model, rows):
    return [model.preprocess(ANCHORS[rows]), model.preprocess(POSITIVES[rows])]


def test_without_a_queue_it_is_the_hosts_ranking_loss(plain):
    plain.eval()
    value, found = gradients(MomentumQueueLoss(plain, queue_size=0, scale=7.0), batch(plain))
    expected_value, expected = gradients(host.MultipleNegativesRankingLoss(plain, scale=7.0), batch(plain))
    assert value == pytest.approx(expected_value, rel=1e-6)
    for name, gradient in expected.items():
        assert torch.allclose(found[name], gradient, atol=1e-6), name


@pytest.mark.parametrize("column", [0, 1])
def test_the_value_is_that_of_the_formula_and_the_batch_at_hand_is_not_in_the_queue(plain, column):
    plain.eval()
    loss = MomentumQueueLoss(plain, queue_size=5, column=column, momentum=0.0, scale=3.0)
    texts = [plain.encode(side).tolist() for side in (ANCHORS, POSITIVES)]
    queue = []
    for rows in (slice(0, 2), slice(2, 4), slice(4, 6), slice(0, 3)):
        expected = reference.info_nce(texts[0][rows], [*texts[1][rows], *queue], 3.0)
        assert loss(pairs(plain, rows)).item() == pytest.approx(expected, rel=1e-5)
        queue = [*texts[column][rows], *queue][:5]
        assert loss.queue.flatten().tolist() == pytest.approx([x for row in queue for x in row], abs=1e-5)


def test_hard_negatives_are_no_rows_of_the_queue(plain):
    loss = MomentumQueueLoss(plain.eval(), queue_size=50, momentum=0.0)
    three = [*batch(plain), plain.preprocess(["it", "is", "was", "and", "of", "to"])]
    loss(three)
    assert len(loss.queue) == 6
    texts = [plain.encode(ANCHORS), plain.encode(POSITIVES), plain.encode(["it", "is", "was", "and", "of", "to"])]
    candidates = [row for column in (*texts[1:], texts[1]) for row in column.tolist()]
    assert loss(three).item() == pytest.approx(reference.info_nce(texts[0].tolist(), candidates, 20.0), rel=1e-5)


def test_a_full_queue_gives_the_oldest_away_first(plain):
    loss = MomentumQueueLoss(plain, queue_size=4)
    for number in range(1, 4):
        newest = torch.zeros(2, 16)
        newest[0, number], newest[1, 10 + number] = 2.0, 2.0
        loss._enqueue(newest)
    assert loss.queue.argmax(dim=1).tolist() == [3, 13, 2, 12]
    assert loss.queue.norm(dim=1).tolist() == [1.0] * 4
    loss._enqueue(torch.eye(16)[:6])
    assert loss.queue.argmax(dim=1).tolist() == [0, 1, 2, 3]


def test_the_copy_follows_as_the_formula_says(plain):
    loss = MomentumQueueLoss(plain, queue_size=4, momentum=0.9)
    start = {name: value.clone() for name, value in loss.momentum_model.named_parameters()}
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter.add_(torch.randn_like(parameter))
    for _ in range(5):
        loss(batch(plain))
    for name, parameter in plain.named_parameters():
        expected = parameter + 0.9**5 * (start[name] - parameter)
        assert torch.allclose(loss.momentum_model.get_parameter(name), expected, atol=1e-5), name


def test_neither_the_queue_nor_the_copy_gets_a_gradient_or_dropout(plain):
    loss = MomentumQueueLoss(plain, queue_size=12, momentum=0.0)
    loss.train()  # as the trainer does
    for _ in range(2):
        loss(batch(plain)).backward()
    assert not loss.queue.requires_grad
    assert all(parameter.grad is None for parameter in loss.momentum_model.parameters())
    assert torch.allclose(loss.queue[:6], loss.queue[6:])
    trained = {id(parameter) for parameter in loss.parameters() if parameter.requires_grad}
    assert trained == {id(parameter) for parameter in plain.parameters()}
    assert any(parameter.grad is not None for parameter in plain.parameters())


def test_the_copy_is_not_saved_with_the_model(plain, tmp_path):
    vectors = plain.encode(ANCHORS)
    MomentumQueueLoss(plain, queue_size=4)(batch(plain))
    assert not [name for name in plain.state_dict() if "momentum" in name]
    plain.save_pretrained(str(tmp_path))
    again = SentenceTransformer(str(tmp_path), device="cpu")
    assert again.state_dict().keys() == plain.state_dict().keys()
    assert again.encode(ANCHORS) == pytest.approx(vectors, abs=1e-6)


def test_the_queue_pushes_away_what_an_earlier_batch_held(plain):
    """One pair per batch has nothing to compare with but the queue."""
    loss = MomentumQueueLoss(plain.eval(), queue_size=8, momentum=0.0)
    assert loss(pairs(plain, slice(0, 1))).item() == pytest.approx(0.0, abs=1e-6)
    second = loss(pairs(plain, slice(1, 2)))
    assert second.item() > 1e-3
    second.backward()
    assert max(float(p.grad.abs().max()) for p in plain.parameters() if p.grad is not None) > 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_extreme_scales_stay_finite_in_every_precision(plain, dtype):
    loss = MomentumQueueLoss(plain, queue_size=4, scale=1000.0)
    loss._enqueue(torch.randn(4, 16))
    columns = [torch.randn(3, 16, dtype=dtype, requires_grad=True) for _ in range(2)]
    value = loss.calculate_loss([[column] for column in columns])
    value.backward()
    assert torch.isfinite(value)
    assert all(torch.isfinite(column.grad).all() for column in columns)


def test_a_column_that_is_not_there_is_refused(plain):
    with pytest.raises(LossError, match="column must be one of the batch, from 0 to 1, got 2. Set column=0"):
        MomentumQueueLoss(plain, queue_size=4, column=2)(batch(plain))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"queue_size": -1}, "queue_size must be an integer >= 0, got -1"),
        ({"queue_size": 2.5}, "queue_size must be an integer >= 0, got 2.5"),
        ({"column": True}, "column must be an integer >= 0, got True"),
        ({"momentum": 1.0}, r"momentum must be in \[0, 1\), got 1.0. A copy with 1 would never learn"),
        ({"scale": 0.0}, "scale must be > 0, got 0.0"),
        ({"scale": math.nan}, "scale must be > 0, got nan"),
    ],
)
def test_an_option_out_of_range_is_refused(plain, options, message):
    with pytest.raises(LossError, match=message):
        MomentumQueueLoss(plain, **{"queue_size": 4, **options})
