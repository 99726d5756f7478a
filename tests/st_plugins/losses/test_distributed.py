"""Losses under distributed training: two processes that average their gradients."""

import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import losses as host
from torch import distributed, multiprocessing
from torch.nn.parallel import DistributedDataParallel

import st_plugins
from loss_cases import ANCHORS, POSITIVES

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
