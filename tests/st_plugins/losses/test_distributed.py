"""Losses under distributed training: two processes that average their gradients."""

import copy

import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import losses as host
from torch import distributed, multiprocessing
from torch.nn.parallel import DistributedDataParallel

import st_plugins
from loss_cases import ANCHORS, POSITIVES
from st_plugins.training.loss_state import own_state

HALVES = (slice(0, 3), slice(3, 6))


def _loss(model, wrapped, mini_batch_size):
    return st_plugins.losses.ElasticLoss(
        wrapped, host.MultipleNegativesRankingLoss(model), sizes=[(1, 8), (3, 8)], mini_batch_size=mini_batch_size
    )


def _step(model, wrapped, half, mini_batch_size):
    model.eval()  # no dropout
    columns = [model.preprocess(ANCHORS[half]), model.preprocess(POSITIVES[half])]
    _loss(model, wrapped, mini_batch_size)(columns).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


def _worker(rank, folder, mini_batch_size):
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    model = st_plugins.elastic(SentenceTransformer(f"{folder}/model", device="cpu"))
    wrapped = DistributedDataParallel(model, find_unused_parameters=True)  # as the trainer does
    torch.save(_step(model, wrapped, HALVES[rank], mini_batch_size), f"{folder}/{mini_batch_size}-{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("mini_batch_size", [None, 2])
def test_two_processes_average_their_gradients(plain, tmp_path, mini_batch_size):
    plain.save_pretrained(str(tmp_path / "model"))
    multiprocessing.spawn(_worker, (str(tmp_path), mini_batch_size), nprocs=2)
    first, second = (torch.load(tmp_path / f"{mini_batch_size}-{rank}.pt") for rank in range(2))
    expected = []
    for half in HALVES:
        model = st_plugins.elastic(SentenceTransformer(str(tmp_path / "model"), device="cpu"))
        expected.append(_step(model, model, half, None))
    assert first.keys() == expected[0].keys()
    for name in first:
        torch.testing.assert_close(first[name], second[name])
        torch.testing.assert_close(first[name], (expected[0][name] + expected[1][name]) / 2, rtol=1e-4, atol=1e-6)


CLASSES = torch.tensor([0, 1, 2, 2, 1, 0])


def _gathering(model, **options):
    """Name -> loss, columns of texts, labels: all that look at the other rows of a batch."""
    names = torch.randn(3, 6, generator=torch.Generator().manual_seed(5))
    guide = copy.deepcopy(model)
    with torch.no_grad():
        guide[0].model.embeddings.word_embeddings.weight.mul_(0.5)
    ours = st_plugins.losses
    return {
        "soft": (ours.SoftContrastiveLoss(model, names, **options), 2, CLASSES),
        "mixup": (ours.MixupContrastiveLoss(model, **options), 2, None),
        "orthogonal": (ours.OrthogonalProjectionLoss(model, **options), 1, CLASSES),
        "guided": (ours.GuidedNegativesLoss(model, guide, temperature=0.1, **options), 2, None),
    }


def _gathered_steps(model, rows, **options):
    found = {}
    for name, (loss, columns, labels) in _gathering(model, **options).items():
        model.zero_grad()
        texts = [model.preprocess(side[rows]) for side in (ANCHORS, POSITIVES)][:columns]
        torch.manual_seed(2)  # what mixup draws
        value = loss(texts, None if labels is None else labels[rows])
        value.backward()
        gradient = {key: value.grad.clone() for key, value in model.named_parameters() if value.grad is not None}
        found[name] = value.detach(), gradient
    return found


def _gathering_worker(rank, folder, mini_batch_size):
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    model = SentenceTransformer(f"{folder}/model", device="cpu").eval()
    options = {"mini_batch_size": mini_batch_size, "gather_across_devices": True}
    torch.save(_gathered_steps(model, HALVES[rank], **options), f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("mini_batch_size", [None, 2])
def test_gathered_over_two_processes_it_is_the_loss_of_the_whole_batch(plain, tmp_path, mini_batch_size):
    plain.save_pretrained(str(tmp_path / "model"))
    multiprocessing.spawn(_gathering_worker, (str(tmp_path), mini_batch_size), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    for name, (value, expected) in _gathered_steps(plain.eval(), slice(None)).items():
        torch.testing.assert_close(first[name][0], value, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(second[name][0], value, rtol=1e-4, atol=1e-6)
        for key, gradient in expected.items():
            average = (first[name][1][key] + second[name][1][key]) / 2
            torch.testing.assert_close(average, gradient, rtol=1e-3, atol=1e-5)


def _stateful(kind, model, gather):
    if kind == "queue":
        return st_plugins.losses.MomentumQueueLoss(model, queue_size=8, momentum=0.5, gather_across_devices=gather)
    return st_plugins.losses.IndividualTemperatureLoss(model, 9, rho=0.3, gather_across_devices=gather)


def _two_steps(model, wrapped, rows, kind, gather):
    """Gradients of the second step, and what the loss remembers after it."""
    model.eval()  # no dropout
    loss = _stateful(kind, model, gather)
    loss.model = wrapped
    for _ in range(2):
        model.zero_grad()
        columns = [model.preprocess(ANCHORS[rows]), model.preprocess(POSITIVES[rows])]
        loss(columns, torch.arange(6)[rows]).backward()
    memory = {name: value.detach().clone() for name, value in own_state(loss, model).items()}
    gradients = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    return {"memory": memory, "gradients": gradients}


def _stateful_worker(rank, folder, kind):
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    model = SentenceTransformer(f"{folder}/model", device="cpu")
    wrapped = DistributedDataParallel(model, find_unused_parameters=True)  # as the trainer does
    found = {gather: _two_steps(model, wrapped, HALVES[rank], kind, gather) for gather in (True, False)}
    torch.save(found, f"{folder}/{kind}-{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["queue", "temperature"])
def test_two_processes_remember_the_same_and_gathered_learn_what_one_does(plain, tmp_path, kind):
    plain.save_pretrained(str(tmp_path / "model"))
    multiprocessing.spawn(_stateful_worker, (str(tmp_path), kind), nprocs=2)
    model = SentenceTransformer(str(tmp_path / "model"), device="cpu")
    expected = _two_steps(model, model, slice(0, 6), kind, False)
    first, second = (torch.load(tmp_path / f"{kind}-{rank}.pt") for rank in range(2))
    for found in (first, second):
        for part in ("memory", "gradients"):
            assert found[True][part].keys() == expected[part].keys()
            for name, value in expected[part].items():
                torch.testing.assert_close(found[True][part][name], value, rtol=1e-4, atol=1e-6)
    for name, value in first[False]["memory"].items():
        torch.testing.assert_close(second[False]["memory"][name], value, rtol=0, atol=0)
        assert value.shape == expected["memory"][name].shape
