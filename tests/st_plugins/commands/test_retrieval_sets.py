import json

import pytest

from st_plugins.commands.retrieval_sets import retrieval_evaluator
from st_plugins.errors import InputError

CORPUS = [{"_id": "d1", "title": "Cats", "text": "the cat sat"}, {"_id": "d2", "text": "a dog ran"}]
QUERIES = [{"_id": "q1", "text": "cat"}, {"_id": "q2", "text": "dog"}, {"_id": "q3", "text": "tree"}]


def write(folder, judgements="q1\td1\t1\nq2\td2\t2\nq3\td1\t0\n"):
    (folder / "qrels").mkdir(parents=True)
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in CORPUS))
    (folder / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in QUERIES))
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + judgements)


def test_titles_join_texts_and_only_judged_queries_stay(model, tmp_path):
    write(tmp_path / "cats")
    evaluator = retrieval_evaluator(str(tmp_path / "cats"))
    assert (evaluator.queries_ids, evaluator.queries) == (["q1", "q2"], ["cat", "dog"])
    assert evaluator.corpus == ["Cats the cat sat", "a dog ran"]
    scores = evaluator(model)
    assert evaluator.primary_metric == "cats_cosine_ndcg@10"
    assert 0 < scores["cats_cosine_ndcg@10"] <= 1


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(InputError, match="must hold one of qrels/test.tsv, qrels/dev.tsv, qrels.tsv"):
        retrieval_evaluator(str(tmp_path))
    write(tmp_path / "none", "q1\td1\t0\n")
    with pytest.raises(InputError, match="must judge at least one document relevant"):
        retrieval_evaluator(str(tmp_path / "none"))
    write(tmp_path / "other", "q9\td1\t1\n")
    with pytest.raises(InputError, match="must hold every judged query, but lacks 'q9'"):
        retrieval_evaluator(str(tmp_path / "other"))
    (tmp_path / "other" / "queries.jsonl").unlink()
    with pytest.raises(InputError, match="must hold queries.jsonl, and does not"):
        retrieval_evaluator(str(tmp_path / "other"))


def test_a_judgement_that_is_no_number_is_named(tmp_path):
    write(tmp_path / "cats", "q1\td1\tyes\n")
    with pytest.raises(InputError, match="score must be a number in every row of .*test.tsv, got 'yes' in row 0"):
        retrieval_evaluator(str(tmp_path / "cats"))


def test_ids_that_look_like_numbers_stay_as_they_are(tmp_path):
    write(tmp_path / "cats", "007\t0.10\t1\n")
    (tmp_path / "cats" / "queries.jsonl").write_text('{"_id": "007", "text": "cat"}\n')
    (tmp_path / "cats" / "corpus.jsonl").write_text('{"_id": "0.10", "text": "the cat sat"}\n')
    evaluator = retrieval_evaluator(str(tmp_path / "cats"))
    assert (evaluator.queries_ids, evaluator.corpus_ids) == (["007"], ["0.10"])
    assert evaluator.relevant_docs == {"007": {"0.10"}}
