import csv

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from st_plugins.bulk.shards import csv_lines, plan_shards
from st_plugins.errors import BulkError


def cuts(source, shard_rows):
    return [(shard.name, shard.start, shard.rows) for shard in plan_shards(source, shard_rows=shard_rows)]


def test_lines_are_cut_where_they_begin(tmp_path):
    file = tmp_path / "x.txt"
    file.write_bytes("één\r\ntwo\n\nfour\nfive".encode())
    shards = plan_shards(file, shard_rows=2)
    assert [(shard.start, shard.rows, shard.offset) for shard in shards] == [(0, 2, 0), (2, 2, 11), (4, 1, 17)]
    assert {shard.size for shard in shards} == {21}
    assert {shard.modified for shard in shards} == {file.stat().st_mtime_ns}
    assert cuts(file, 5) == [("x.txt", 0, 5)]


def test_row_groups_stay_whole(tmp_path):
    pq.write_table(pa.table({"text": list("abcdefg")}), tmp_path / "x.parquet", row_group_size=2)
    assert cuts(tmp_path / "x.parquet", 4) == [("x.parquet", 0, 4), ("x.parquet", 4, 3)]
    assert cuts(tmp_path / "x.parquet", 1) == [("x.parquet", n, min(2, 7 - n)) for n in (0, 2, 4, 6)]
    assert [shard.offset for shard in plan_shards(tmp_path / "x.parquet", shard_rows=4)] == [0, 2]


def test_a_csv_file_is_one_shard_however_long_its_cells(tmp_path):
    (tmp_path / "x.csv").write_text('text\n"two\nlines"\n' + "y" * 200_000 + "\n")
    assert cuts(tmp_path / "x.csv", 1) == [("x.csv", 0, 2)]
    assert [len(cells[0]) for cells in csv_lines(tmp_path / "x.csv")] == [4, 9, 200_000]
    assert csv.field_size_limit() >= 200_000
    (tmp_path / "x.tsv").write_text("id\ttext\n1\ta,b\n")
    assert list(csv_lines(tmp_path / "x.tsv")) == [["id", "text"], ["1", "a,b"]]


def test_files_are_found_by_name_folder_and_pattern(tmp_path, monkeypatch):
    (tmp_path / "deep").mkdir()
    for name in ("b.txt", "a.txt", "deep/c.txt", "notes.md"):
        (tmp_path / name).write_text("x\n")
    assert cuts(tmp_path, 9) == [("a.txt", 0, 1), ("b.txt", 0, 1), ("deep/c.txt", 0, 1)]
    assert cuts(tmp_path / "*.txt", 9) == [("a.txt", 0, 1), ("b.txt", 0, 1)]
    assert cuts(tmp_path / "**/*.txt", 9) == [("a.txt", 0, 1), ("b.txt", 0, 1), ("deep/c.txt", 0, 1)]
    assert cuts(tmp_path / "deep/c.txt", 9) == [("c.txt", 0, 1)]
    monkeypatch.chdir(tmp_path)
    assert cuts("*.txt", 9) == [("a.txt", 0, 1), ("b.txt", 0, 1)]


def test_what_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(BulkError, match=r"must be a file, a folder or a pattern with files ending in \.parquet"):
        plan_shards(tmp_path, shard_rows=1)
    with pytest.raises(BulkError, match="must be a file, a folder or a pattern"):
        plan_shards(tmp_path / "none.txt", shard_rows=1)
    (tmp_path / "x.xml").touch()
    with pytest.raises(BulkError, match=r"x\.xml must end in one of .* Convert it, or rename it"):
        plan_shards(tmp_path / "x.xml", shard_rows=1)
    (tmp_path / "x.txt").touch()
    with pytest.raises(BulkError, match="must hold at least one row, got none"):
        plan_shards(tmp_path / "x.txt", shard_rows=1)
    with pytest.raises(BulkError, match="shard_rows must be positive, got 0"):
        plan_shards(tmp_path / "x.txt", shard_rows=0)
