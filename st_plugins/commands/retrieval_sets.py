"""A retrieval benchmark from a folder in BEIR's layout, as sentence-transformers' evaluator."""

from pathlib import Path
from typing import Any

from st_plugins.commands.text_files import numbers, read_table
from st_plugins.errors import InputError

_JUDGEMENTS = ("qrels/test.tsv", "qrels/dev.tsv", "qrels.tsv")


def retrieval_evaluator(folder: str) -> Any:
    """An ``InformationRetrievalEvaluator`` with nDCG@10 as its primary metric.

    Args:
        folder: With ``corpus.jsonl`` (``_id``, ``text`` and maybe ``title``), ``queries.jsonl`` (``_id``, ``text``),
            and one of ``qrels/test.tsv``, ``qrels/dev.tsv``, ``qrels.tsv`` (``query-id``, ``corpus-id``, ``score``), as
            BEIR has them. Queries without a judgement above 0 are left out.

    Raises:
        InputError: If a file or column is missing, or nothing is judged relevant.

    Example:
        >>> retrieval_evaluator("cats").name
        'cats'
    """
    from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator

    home = Path(folder)
    judged = next((home / name for name in _JUDGEMENTS if (home / name).is_file()), None)
    if judged is None:
        raise InputError(f"{folder} must hold one of {', '.join(_JUDGEMENTS)}, with corpus.jsonl and queries.jsonl.")
    relevant: dict[str, set[str]] = {}
    ids = ("query-id", "corpus-id")
    table = read_table(str(judged), [*ids, "score"], texts=ids)
    for row, score in zip(table.to_pylist(), numbers(table, "score", str(judged)), strict=True):
        if score > 0:
            relevant.setdefault(str(row["query-id"]), set()).add(str(row["corpus-id"]))
    if not relevant:
        raise InputError(f"{judged} must judge at least one document relevant (a score above 0), got none.")
    texts = _texts(home / "queries.jsonl")
    missing = sorted(relevant.keys() - texts.keys())
    if missing:
        raise InputError(f"queries.jsonl in {folder} must hold every judged query, but lacks {missing[0]!r}.")
    return InformationRetrievalEvaluator(
        {id: texts[id] for id in relevant},
        _texts(home / "corpus.jsonl"),
        relevant,
        ndcg_at_k=[10],
        main_score_function="cosine",
        name=home.resolve().name,
        write_csv=False,
    )


def _texts(file: Path) -> dict[str, str]:
    if not file.is_file():
        raise InputError(f"{file.parent} must hold {file.name}, and does not.")
    rows = read_table(str(file), ["_id", "text"]).to_pylist()
    return {str(row["_id"]): " ".join(part for part in (row.get("title"), row["text"]) if part) for row in rows}
