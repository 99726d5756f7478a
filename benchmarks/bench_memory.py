"""What training many sizes at once costs in memory: one step each, in a process of its own. Minutes on 2 cores."""

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from bench_loss import build_model, losses_of
from texts import docstrings
from timing import peak_mebibytes, print_machine

TOKENS = 48
CACHED = "ElasticLoss, 24 sizes, cached by 32"


def peak_of_a_step(name: str, batch: int) -> tuple[float, float]:
    """Memory before the step of a loss and at its peak."""
    model = build_model(TOKENS)
    loss = losses_of(model)[name]
    texts = (docstrings(1024) * (batch // 512 + 1))[: 2 * batch]
    columns = [model.preprocess(column).to(model.device) for column in (texts[:batch], texts[batch:])]
    before = peak_mebibytes()
    loss(columns, None).backward()
    return before, peak_mebibytes()


def main() -> None:
    print_machine("torch", "sentence-transformers", "transformers")
    print(f"\npairs of docstrings cut at {TOKENS} tokens: peak memory (MiB) before and during one step")
    for name, batch in [*((name, 128) for name in losses_of(build_model(TOKENS))), (CACHED, 2048)]:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as processes:
            before, peak = processes.submit(peak_of_a_step, name, batch).result()
        print(f"  {name + f', batch {batch}':<48}{before:>8.0f}{peak:>8.0f}", flush=True)


if __name__ == "__main__":
    main()
