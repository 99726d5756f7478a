import pytest
import torch
from sentence_transformers.sentence_transformer import losses as host

from loss_cases import ANCHORS, POSITIVES, batch, gradients
from st_plugins import losses
from st_plugins.errors import LossError
from st_plugins.losses import ElasticLoss, IndividualTemperatureLoss, MomentumQueueLoss
from st_plugins.losses.stateful import StatefulLoss, of_all_devices

ROWS = torch.arange(len(ANCHORS))


def temperature(model, **options):
    return IndividualTemperatureLoss(model, num_examples=8, rho=0.3, **options)


def queue(model, **options):
    return MomentumQueueLoss(model, queue_size=10, momentum=0.5, **options)


def memory(loss):
    own = {id(parameter) for parameter in loss.model.parameters()}
    return {name: value.clone() for name, value in loss.state_dict(keep_vars=True).items() if id(value) not in own}


KINDS = pytest.mark.parametrize("kind", [temperature, queue])


def test_every_loss_with_a_memory_is_here(plain):
    public = [getattr(losses, name) for name in losses.__all__]
    ours = {thing for thing in public if isinstance(thing, type) and issubclass(thing, StatefulLoss)}
    assert ours == {type(kind(plain)) for kind in (temperature, queue)}


@KINDS
def test_cached_gradients_are_the_gradients_and_the_memory_changes_once(plain, kind):
    plain.eval()
    whole, cached = kind(plain), kind(plain, mini_batch_size=2)
    assert not whole.uses_gradient_cache
    assert cached.uses_gradient_cache
    for _ in range(3):
        value, expected = gradients(whole, batch(plain), ROWS)
        found, replayed = gradients(cached, batch(plain), ROWS)
        assert found == pytest.approx(value, rel=1e-5)
        for name, gradient in expected.items():
            assert torch.allclose(replayed[name], gradient, atol=1e-5), name
    for (name, one), (_, other) in zip(memory(whole).items(), memory(cached).items(), strict=True):
        assert torch.allclose(one, other, atol=1e-5), name


@KINDS
def test_an_evaluation_remembers_nothing(plain, kind):
    loss = kind(plain)
    loss(batch(plain), ROWS).backward()
    before = memory(loss)
    with torch.no_grad():
        first = loss(batch(plain), torch.arange(100, 106))  # rows of another dataset
    assert loss.eval()(batch(plain), None).item() == pytest.approx(first.item(), rel=1e-6)
    assert all(torch.equal(value, before[name]) for name, value in memory(loss).items())


@KINDS
def test_the_order_of_rows_and_padding_do_not_matter(plain, kind):
    plain.eval()
    order = [3, 0, 5, 1, 4, 2]
    shuffled = [plain.preprocess([column[row] for row in order]) for column in (ANCHORS, POSITIVES)]
    columns = batch(plain)
    for column in columns:
        for name, value in column.items():
            if isinstance(value, torch.Tensor):
                column[name] = torch.nn.functional.pad(value, (0, 3))
    values = [kind(plain)(features, rows).item() for features, rows in ((shuffled, ROWS[order]), (columns, ROWS))]
    assert values[0] == pytest.approx(values[1], rel=1e-5)


@KINDS
def test_losses_over_several_sizes_refuse_it_as_their_base(plain, model, kind):
    with pytest.raises(LossError, match="must have compute_loss_from_embeddings"):
        ElasticLoss(model, kind(model))
    matryoshka = host.MatryoshkaLoss(plain, kind(plain), matryoshka_dims=[16, 8])
    with pytest.raises(LossError, match="must have one width, got 8 after 16.*Train sizes with another base loss"):
        matryoshka(batch(plain), ROWS)


@KINDS
def test_nan_stops_the_training_before_it_is_remembered(plain, kind):
    loss = kind(plain)
    before = memory(loss)
    embeddings = [[torch.full((6, 16), torch.nan, requires_grad=True)] for _ in range(2)]
    with pytest.raises(LossError, match="The embeddings must be numbers, got NaN"):
        loss.calculate_loss(embeddings, ROWS)
    assert all(torch.equal(value, before[name]) for name, value in memory(loss).items())


@KINDS
def test_the_model_card_can_say_how_it_was_trained(plain, kind):
    config = kind(plain, mini_batch_size=4).get_config_dict()
    assert config["mini_batch_size"] == 4
    assert config["gather_across_devices"] is False
    assert config.keys() > kind(plain).options().keys() > set()


def test_one_process_gathers_nothing():
    rows = torch.randn(3, 4, requires_grad=True)
    assert torch.equal(of_all_devices(rows), rows)
    assert not of_all_devices(rows).requires_grad


@KINDS
def test_gathering_changes_nothing_in_one_process(plain, kind):
    plain.eval()
    alone, gathered = kind(plain), kind(plain, gather_across_devices=True)
    for _ in range(2):
        assert alone(batch(plain), ROWS).item() == pytest.approx(gathered(batch(plain), ROWS).item())
    assert memory(alone).keys() == memory(gathered).keys()
    assert all(torch.equal(value, memory(gathered)[name]) for name, value in memory(alone).items())
