"""GenerationRetrievalLoss in two processes that average their gradients."""

import pytest
import torch
from sentence_transformers import SentenceTransformer
from torch import distributed, multiprocessing
from torch.nn.parallel import DistributedDataParallel

from generation_cases import NEGATIVES, POSITIVES, QUERIES, columns
from st_plugins.losses.generation_retrieval import GenerationRetrievalLoss

HALVES = (slice(0, 2), slice(1, 3))


def _step(model, wrapped, half):
    loss = GenerationRetrievalLoss(model)
    loss.model = wrapped  # as the trainer does
    texts = (QUERIES[half], POSITIVES[half], NEGATIVES[half])
    torch.stack(list(loss(columns(model, *texts)).values())).sum().backward()
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


def _worker(rank, folder):
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    model = SentenceTransformer(f"{folder}/model", device="cpu").eval()
    wrapped = DistributedDataParallel(model, find_unused_parameters=True)
    torch.save(_step(model, wrapped, HALVES[rank]), f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_average_their_gradients(llama, tmp_path):
    llama.save_pretrained(str(tmp_path / "model"))
    multiprocessing.spawn(_worker, (str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    expected = []
    for half in HALVES:
        model = SentenceTransformer(str(tmp_path / "model"), device="cpu").eval()
        expected.append(_step(model, model, half))
    assert first.keys() == expected[0].keys()
    for name in first:
        torch.testing.assert_close(first[name], second[name])
        torch.testing.assert_close(first[name], (expected[0][name] + expected[1][name]) / 2, rtol=1e-4, atol=1e-6)
