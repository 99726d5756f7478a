"""Tasks of mteb that need no download, a few texts each."""

import mteb
from datasets import Dataset
from mteb.abstasks import AbsTaskRetrieval, AbsTaskSTS

from loss_cases import ANCHORS, POSITIVES

RELEVANT = {"q0": {"d0": 1, "d3": 2}, "q1": {"d1": 1}, "q2": {"d4": 1, "d5": 1}}


def metadata(name, kind, score):
    return mteb.TaskMetadata(
        name=name, description=name, type=kind, category="t2t", main_score=score, eval_splits=["test"],
        eval_langs=["eng-Latn"], dataset={"path": "local/none", "revision": "1"}, reference=None, date=None,
        domains=None, task_subtypes=None, license=None, annotations_creators=None, dialect=None, sample_creation=None,
        bibtex_citation="",
    )  # fmt: skip


class Similarity(AbsTaskSTS):
    metadata = metadata("TinySimilarity", "STS", "cosine_spearman")

    def __init__(self, first, second, gold):
        super().__init__()
        rows = Dataset.from_dict({"sentence1": first, "sentence2": second, "score": gold})
        self.dataset, self.data_loaded = {"test": rows}, True


class Search(AbsTaskRetrieval):
    metadata = metadata("TinySearch", "Retrieval", "ndcg_at_10")

    def __init__(self):
        super().__init__()
        split = {
            "queries": Dataset.from_dict({"id": list(RELEVANT), "text": ANCHORS[: len(RELEVANT)]}),
            "corpus": Dataset.from_dict({"id": [f"d{i}" for i in range(len(POSITIVES))], "text": POSITIVES}),
            "relevant_docs": RELEVANT,
            "top_ranked": None,
        }
        self.dataset, self.data_loaded = {"default": {"test": split}}, True
