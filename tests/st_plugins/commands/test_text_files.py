import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from st_plugins.commands.text_files import numbers, read_table, read_texts
from st_plugins.errors import BulkError, InputError


def test_texts_come_in_order_and_without_blank_ones(folder):
    assert read_texts(str(folder / "texts.txt"), "text") == ["the cat", "a dog"]


def test_a_row_without_a_text_is_named(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n{"text": 3}\n')
    with pytest.raises(InputError, match=r"Row 1 of .*a.jsonl cannot be used: no text in column 'text': int. Mend"):
        read_texts(str(tmp_path / "a.jsonl"), "text")


def test_blank_texts_alone_are_refused(tmp_path):
    (tmp_path / "a.txt").write_text("\n  \n")
    with pytest.raises(InputError, match="must hold at least one text that is not blank, got none"):
        read_texts(str(tmp_path / "a.txt"), "text")
    with pytest.raises(BulkError, match="must be a file, a folder or a pattern"):
        read_texts(str(tmp_path / "b.txt"), "text")


def test_tables_of_every_kind_are_the_same(tmp_path):
    rows = {"anchor": ["a", "b"], "score": [1.0, 0.5]}
    pq.write_table(pa.table(rows), tmp_path / "t.parquet")
    (tmp_path / "t.csv").write_text("anchor,score\na,1.0\nb,0.5\n")
    (tmp_path / "t.tsv").write_text("anchor\tscore\na\t1.0\nb\t0.5\n")
    lines = "".join(json.dumps({"anchor": a, "score": s}) + "\n" for a, s in zip(*rows.values(), strict=True))
    (tmp_path / "t.jsonl").write_text(lines)
    for suffix in ("parquet", "csv", "tsv", "jsonl"):
        assert read_table(str(tmp_path / f"t.{suffix}"), ["anchor"]).to_pydict() == rows


def test_tables_that_are_none_are_refused(tmp_path):
    (tmp_path / "t.csv").write_text("anchor,score\n")
    (tmp_path / "t.jsonl").write_text("{")
    with pytest.raises(InputError, match="must hold at least one row, got none"):
        read_table(str(tmp_path / "t.csv"))
    with pytest.raises(InputError, match="must have a column 'positive', got 'anchor', 'score'"):
        read_table(str(tmp_path / "t.csv"), ["positive"])
    with pytest.raises(InputError, match="must be a table, but it cannot be read as jsonl"):
        read_table(str(tmp_path / "t.jsonl"))
    with pytest.raises(InputError, match=r"must end in one of .parquet, .jsonl, .ndjson, .csv, .tsv. Convert it"):
        read_table(str(tmp_path / "t.xlsx"))


@pytest.mark.parametrize("cell", ["", "x", "inf"])
def test_a_cell_that_is_no_number_is_named(tmp_path, cell):
    (tmp_path / "sts.csv").write_text(f"first,score\na,1\nb,2.5\nc,{cell or ' '}\n")
    table = read_table(str(tmp_path / "sts.csv"))
    with pytest.raises(InputError, match=r"score must be a number in every row of sts.csv, got .* in row 2. Mend"):
        numbers(table, "score", "sts.csv")
    assert numbers(table.slice(0, 2), "score", "sts.csv") == [1, 2.5]


@pytest.mark.parametrize(("suffix", "mark"), [("csv", ","), ("tsv", "\t")])
def test_texts_that_look_like_numbers_stay_as_they_are(tmp_path, suffix, mark):
    (tmp_path / f"t.{suffix}").write_text(f"id{mark}text{mark}score\n007{mark}1e3{mark}1\n")
    file = str(tmp_path / f"t.{suffix}")
    assert read_table(file).to_pylist() == [{"id": 7, "text": 1000.0, "score": 1}]
    assert read_table(file, texts=["id", "no such column"]).to_pylist() == [{"id": "007", "text": 1000.0, "score": 1}]
    assert read_table(file, texts=None).to_pylist() == [{"id": "007", "text": "1e3", "score": "1"}]
