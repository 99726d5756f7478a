import json
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from st_plugins.bulk.rows import content_digest, read_rows
from st_plugins.bulk.shards import plan_shards
from st_plugins.errors import BulkError

ROWS = [("1", "one"), ("2", "zwei\nLinien"), ("3", "三")]


def write(path):
    """The same rows in each format."""
    if path.suffix == ".parquet":
        ids, texts = zip(*ROWS, strict=True)
        pq.write_table(pa.table({"id": ids, "text": texts, "more": [0] * 3}), path, row_group_size=1)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps({"id": id, "text": text}) + "\n" for id, text in ROWS))
    else:
        mark = "\t" if path.suffix == ".tsv" else ","
        path.write_text(f"id{mark}text\n" + "".join(f'{id}{mark}"{text}"\n' for id, text in ROWS))
    return path


def all_rows(path, *, text="text", id="id", shard_rows=100, window=100):
    found = []
    for shard in plan_shards(path, shard_rows=shard_rows):
        for rows in read_rows(shard, text=text, id=id, window=window):
            assert 1 <= len(rows) <= window
            found += zip(rows.ids, rows.texts, [rows.errors.get(place) for place in range(len(rows))], strict=True)
    return found


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl", ".csv", ".tsv"])
@pytest.mark.parametrize(("shard_rows", "window"), [(100, 100), (2, 1), (1, 2)])
def test_every_format_gives_the_same_rows(tmp_path, suffix, shard_rows, window):
    path = write(tmp_path / f"x{suffix}")
    assert all_rows(path, shard_rows=shard_rows, window=window) == [(*row, None) for row in ROWS]
    names = [f"x{suffix}:{place}" for place in range(3)]
    assert [row[0] for row in all_rows(path, id=None, shard_rows=shard_rows)] == names


def test_a_text_file_has_a_text_per_line(tmp_path):
    (tmp_path / "x.txt").write_bytes(b"one\r\n\nth\xffree")
    assert all_rows(tmp_path / "x.txt", shard_rows=2) == [
        ("x.txt:0", "one", None), ("x.txt:1", "", None), ("x.txt:2", "th\udcffree", None),
    ]  # fmt: skip


def test_a_row_that_cannot_be_read_is_kept_with_its_error(tmp_path):
    lines = ['{"id": 7, "text": "fine"}', "{broken", "[1]", '{"text": "no id"}', '{"id": "8"}', '{"id": 9, "text": 1}']
    (tmp_path / "x.jsonl").write_text("\n".join(lines))
    errors = [
        "not valid JSON: ",
        "not a JSON object: list",
        "no id in column 'id'",
        "no text in column 'text': NoneType",
    ]
    found = all_rows(tmp_path / "x.jsonl")
    assert [(id, text) for id, text, _ in found] == [("7", "fine"), *[(None, None)] * 3, ("8", None), ("9", None)]
    for (_, _, error), expected in zip(found[1:], [*errors, "no text in column 'text': int"], strict=True):
        assert error.startswith(expected)
    assert [row[0] for row in all_rows(tmp_path / "x.jsonl", id=None)][1] == "x.jsonl:1"
    (tmp_path / "x.csv").write_text("id,text\n1\n")
    assert all_rows(tmp_path / "x.csv") == [("1", None, "no text in column 'text': NoneType")]


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_columns_must_be_there(tmp_path, suffix):
    path = write(tmp_path / f"x{suffix}")
    with pytest.raises(BulkError, match=r"must have a column 'body', got 'id', 'text'"):
        all_rows(path, text="body")
    with pytest.raises(BulkError, match=r"must have a column 'key'"):
        all_rows(path, id="key")


def test_a_file_that_shrinks_is_noticed(tmp_path):
    shard = plan_shards(write(tmp_path / "x.jsonl"), shard_rows=100)[0]
    with pytest.raises(BulkError, match=r"must have 4 rows from row 0 on, got 3: it changed .* Run the job again"):
        list(read_rows(replace(shard, rows=4), text="text", id="id"))


def test_the_digest_is_that_of_the_rows(tmp_path):
    digests = set()
    for suffix in (".parquet", ".jsonl", ".csv"):
        (shard,) = plan_shards(write(tmp_path / f"x{suffix}"), shard_rows=100)
        digests.add(content_digest(shard, text="text", id="id"))
    assert len(digests) == 1
    (tmp_path / "x.csv").write_text("id,text\n1,other\n")
    (shard,) = plan_shards(tmp_path / "x.csv", shard_rows=100)
    assert content_digest(shard, text="text", id="id") not in digests


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl"])
def test_the_mark_that_some_programs_begin_a_file_with_is_no_part_of_it(tmp_path, suffix):
    expected = all_rows(write(tmp_path / f"x{suffix}"))
    path = tmp_path / f"x{suffix}"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert all_rows(path, shard_rows=1, window=2) == expected


def test_the_mark_is_no_part_of_a_text(tmp_path):
    (tmp_path / "x.txt").write_bytes(b"\xef\xbb\xbfone\n\xef\xbb\xbftwo\n")
    assert [text for _, text, _ in all_rows(tmp_path / "x.txt", id=None)] == ["one", "\ufefftwo"]
