import errno
import json
import os
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from st_plugins.bulk import BulkEmbedder
from st_plugins.bulk.parts import Columns, embed_shard, finished_part, part_name, read_summary
from st_plugins.bulk.shards import plan_shards
from st_plugins.errors import BulkError

COLUMNS = Columns("text", "key")


@pytest.fixture
def embedder(settings):
    return BulkEmbedder(settings)


@pytest.fixture
def shard(source):
    more = '{"key": "a3", "text": " "}\n{"key": "\\ud800", "text": "\\ud800"}\n'
    (source / "a.jsonl").write_text((source / "a.jsonl").read_text() + more)
    return plan_shards(source / "a.jsonl", shard_rows=100)[0]


def test_a_part_holds_every_row_and_a_summary(shard, embedder, tmp_path, model):
    summary = embed_shard(shard, COLUMNS, tmp_path, embedder)
    table = pq.read_table(tmp_path / summary.part)
    assert table["id"].to_pylist() == ["a0", "a1", "a2", "a3", "\\ud800"]
    assert table["error"].to_pylist()[:4] == [None, None, None, "the text is blank"]
    vectors = table["embedding"].to_pylist()
    assert vectors[3:] == [None, None]
    texts = ["the cat sat", "a dog ran on the mat", "it"]
    np.testing.assert_allclose(np.array(vectors[:3]), model.encode(texts), atol=1e-6)
    assert (summary.input, summary.start, summary.rows, summary.errors, summary.truncated) == ("a.jsonl", 0, 5, 2, 0)
    assert summary.mean_norm == pytest.approx(1, abs=1e-5)
    assert summary.min_norm == pytest.approx(1, abs=1e-5)
    assert summary == read_summary(tmp_path / summary.part)
    assert summary.part == part_name(shard, embedder.fingerprint)
    assert sorted(path.suffix for path in tmp_path.iterdir() if path.is_file()) == [".parquet"]


def test_a_shard_without_vectors_has_no_norms(source, embedder, tmp_path):
    (source / "a.jsonl").write_text("{broken\n")
    summary = embed_shard(plan_shards(source / "a.jsonl", shard_rows=9)[0], COLUMNS, tmp_path, embedder)
    assert (summary.errors, summary.min_norm, summary.mean_norm) == (1, None, None)


def test_a_shard_is_done_once(shard, embedder, tmp_path, monkeypatch):
    first = embed_shard(shard, COLUMNS, tmp_path, embedder)
    monkeypatch.setattr(embedder, "embed", None)
    assert embed_shard(shard, COLUMNS, tmp_path, embedder) == first


def test_another_fingerprint_cut_or_file_is_another_part(shard):
    names = {part_name(shard, "f"), part_name(shard, "g"), part_name(replace(shard, start=1), "f")}
    names |= {part_name(replace(shard, rows=1), "f"), part_name(replace(shard, name="c.jsonl"), "f")}
    assert len(names) == 5
    assert part_name(replace(shard, modified=0, size=1), "f") in names


def test_a_copied_file_is_the_same_and_a_changed_one_is_refused(shard, embedder, tmp_path, source):
    done = embed_shard(shard, COLUMNS, tmp_path, embedder)
    os.utime(shard.file, ns=(0, 0))
    (touched,) = plan_shards(shard.file, shard_rows=100)
    assert touched.modified == 0
    assert finished_part(touched, COLUMNS, tmp_path, embedder.fingerprint) == done
    shard.file.write_text(shard.file.read_text().replace("dog", "cat"))
    (changed,) = plan_shards(shard.file, shard_rows=100)
    with pytest.raises(
        BulkError, match=r"Rows 0 to 4 of a\.jsonl changed since they were embedded\. Delete part-.*, or"
    ):
        finished_part(changed, COLUMNS, tmp_path, embedder.fingerprint)


def test_no_part_appears_when_writing_fails(shard, embedder, tmp_path, monkeypatch):
    output = tmp_path / "out"
    output.mkdir()

    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        embed_shard(shard, COLUMNS, output, embedder)
    assert list(output.iterdir()) == []


def test_what_is_no_part_is_refused(tmp_path, shard, embedder):
    bad = tmp_path / part_name(shard, embedder.fingerprint)
    bad.write_bytes(b"PAR1")
    with pytest.raises(BulkError, match=r"part-.* must be part of a bulk job, but cannot be read .* Remove it"):
        embed_shard(shard, COLUMNS, tmp_path, embedder)
    import pyarrow as pa

    table = pa.table({"x": [1]}).replace_schema_metadata({"st_plugins.bulk": json.dumps({"part": "x"})})
    pq.write_table(table, bad)
    with pytest.raises(BulkError, match="cannot be read"):
        read_summary(bad)
