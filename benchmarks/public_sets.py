"""Real public sets, read from the folder ``ST_PLUGINS_DATA``; nothing is downloaded."""

import csv
import gzip
import json
import os
import random
import sys
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Self

from datasets import Dataset

FOLDER = Path(os.environ.get("ST_PLUGINS_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
_SQUAD_TRAINING_SHARE = 0.8  # of the questions, which come article by article
_LONGEST = 600  # characters of a training text: more than the tokens that are read


@dataclass(frozen=True)
class Retrieval:
    """Questions, documents, and for each question the positions of the right documents."""

    questions: list[str]
    documents: list[str]
    relevant: list[set[int]]

    def first(self, count: int) -> Self:
        """The first questions, on all documents."""
        return replace(self, questions=self.questions[:count], relevant=self.relevant[:count])


def require_folder() -> None:
    """Stop with a message if the sets are not there."""
    if not (FOLDER / "stsb").is_dir():
        sys.exit(f"Skipped: no data in {FOLDER}. Set ST_PLUGINS_DATA to a folder with stsb/, sick/ and the rest.")


def training_pairs(seed: int) -> dict[str, Dataset]:
    """Pairs that mean the same or answer each other, one shuffled ``Dataset`` per source."""
    squad = _read_squad()[0]
    sources = {
        "snli": [(row["anchor"], row["positive"]) for row in _table("clean-train/snli-triplets.tsv.gz")],
        "wikisplit": [(row["anchor"], row["positive"]) for row in _table("clean-train/wikisplit-pairs.tsv.gz")],
        "asset": [(row["anchor"], row["positive"]) for row in _table("clean-train/asset-pairs.tsv.gz")[::2]],
        "captions": _caption_pairs(),
        "squad": [(squad.questions[i], squad.documents[min(found)]) for i, found in enumerate(squad.relevant)],
        "medquad": [(row["anchor"], row["positive"]) for row in _table("medquad/pairs.tsv.gz")],
    }
    return {name: _shuffled(pairs, seed) for name, pairs in sources.items()}


def similarity_sets() -> dict[str, tuple[list[str], list[str], list[float]]]:
    """Development splits of STSb and SICK: first texts, second texts, graded similarity."""
    sets = {}
    for name, file in (("stsb", "stsb/dev.tsv.gz"), ("sick", "sick/dev.tsv.gz")):
        rows = _table(file)
        scores = [float(row["score"]) for row in rows]
        sets[name] = ([row["sentence1"] for row in rows], [row["sentence2"] for row in rows], scores)
    return sets


def retrieval_sets(names: tuple[str, ...]) -> dict[str, Retrieval]:
    """Those among ``squad`` (articles not trained on), ``medline``, ``npl`` and ``scifact`` (train claims)."""
    readers = {
        "squad": lambda: _read_squad()[1],
        "medline": lambda: _beir("medline", "test"),
        "npl": lambda: _beir("npl-vaswani", "test"),
        "scifact": lambda: _beir("scifact", "train"),
    }
    return {name: readers[name]() for name in names}


@cache
def texts_by_class(file: str) -> dict[str, list[str]]:
    """Texts of each class of a file such as ``banking77/train``, by its name; classes and texts in the file's order."""
    return _grouped(f"{file}.tsv.gz", "label")


@cache
def captions() -> list[list[str]]:
    """Captions of each picture."""
    return list(_grouped("clean-train/flickr8k-captions.tsv.gz", "group").values())


def _caption_pairs() -> list[tuple[str, str]]:
    """Neighbouring captions of one picture, two pairs a picture."""
    return [pair for group in captions() for pair in list(pairwise(group))[::2]]


def _grouped(file: str, column: str) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for row in _table(file):
        groups.setdefault(row[column], []).append(row["text"])
    return groups


def _read_squad() -> tuple[Retrieval, Retrieval]:
    """The first articles to train on, the last ones to evaluate; no document is in both."""
    whole = _beir("squad-sentence-qa", "test")
    cut = int(_SQUAD_TRAINING_SHARE * len(whole.questions))
    boundary = max(max(found) for found in whole.relevant[:cut]) + 1
    training = Retrieval(whole.questions[:cut], whole.documents[:boundary], whole.relevant[:cut])
    later = [i for i in range(cut, len(whole.questions)) if min(whole.relevant[i]) >= boundary]
    held_out = Retrieval(
        [whole.questions[i] for i in later],
        whole.documents[boundary:],
        [{document - boundary for document in whole.relevant[i]} for i in later],
    )
    return training, held_out


def _beir(name: str, split: str) -> Retrieval:
    documents, positions = [], {}
    for row in _lines(f"{name}/corpus.jsonl.gz"):
        positions[row["_id"]] = len(documents)
        documents.append(f"{row['title']} {row['text']}".strip())
    relevant: dict[str, set[int]] = {}
    for row in _table(f"{name}/qrels.{split}.tsv.gz"):
        if int(row["score"]) > 0:
            relevant.setdefault(row["query-id"], set()).add(positions[row["corpus-id"]])
    judged = [row for row in _lines(f"{name}/queries.jsonl.gz") if row["_id"] in relevant]
    return Retrieval([row["text"] for row in judged], documents, [relevant[row["_id"]] for row in judged])


def _table(file: str) -> list[dict[str, str]]:
    with gzip.open(FOLDER / file, "rt", encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))


def _lines(file: str) -> list[dict[str, str]]:
    with gzip.open(FOLDER / file, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def _shuffled(pairs: list[tuple[str, str]], seed: int) -> Dataset:
    pairs = [(anchor[:_LONGEST], positive[:_LONGEST]) for anchor, positive in pairs]
    random.Random(seed).shuffle(pairs)
    return Dataset.from_dict({"anchor": [a for a, _ in pairs], "positive": [p for _, p in pairs]})
