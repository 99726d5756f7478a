import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from st_plugins.bulk import embed_files, embedding_jobs
from st_plugins.bulk.parts import embed_shard
from st_plugins.errors import BulkError, SizeError
from st_plugins_export import export_onnx
from tests.st_plugins.bulk.conftest import TEXTS

ROOT = Path(__file__).parents[3]


def rows_of(report):
    tables = [pq.read_table(report.folder / part.part) for part in report.parts]
    return {
        id: vector
        for table in tables
        for id, vector in zip(*(table[n].to_pylist() for n in ("id", "embedding")), strict=True)
    }


def test_every_row_is_embedded_once(source, settings, tmp_path, model):
    report = embed_files(source, tmp_path / "out", settings, id="key", shard_rows=2, show_progress=False)
    assert (report.rows, report.errors, report.truncated, report.resumed, report.dim) == (6, 0, 0, 0, 16)
    assert [(part.input, part.start, part.rows) for part in report.parts] == [
        ("a.jsonl", 0, 2), ("a.jsonl", 2, 1), ("b.jsonl", 0, 2), ("b.jsonl", 2, 1),
    ]  # fmt: skip
    found = rows_of(report)
    assert list(found) == ["a0", "a1", "a2", "b0", "b1", "b2"]
    np.testing.assert_allclose(np.array(list(found.values())), model.encode(TEXTS), atol=1e-6)
    assert pq.read_table(tmp_path / "out").num_rows == 6  # the folder as a whole is a data set
    manifest = json.loads((tmp_path / "out" / "_manifest.json").read_text())
    assert (manifest["rows"], manifest["fingerprint"]) == (6, report.fingerprint)


def test_a_finished_job_does_nothing_again(source, settings, tmp_path):
    first = embed_files(source, tmp_path / "out", settings, show_progress=False)
    times = [(tmp_path / "out" / part.part).stat().st_mtime_ns for part in first.parts]
    again = embed_files(source, tmp_path / "out", settings, show_progress=False)
    assert (again.resumed, again.parts) == (2, first.parts)
    assert times == [(tmp_path / "out" / part.part).stat().st_mtime_ns for part in first.parts]


def test_a_job_goes_on_where_it_stopped(source, settings, tmp_path, monkeypatch):
    done = []

    def stops(shard, *rest):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(shard.name)
        return embed_shard(shard, *rest)

    monkeypatch.setattr(embedding_jobs, "embed_shard", stops)
    with pytest.raises(KeyboardInterrupt):
        embed_files(source, tmp_path / "out", settings, shard_rows=1, show_progress=False)
    monkeypatch.undo()
    report = embed_files(source, tmp_path / "out", settings, shard_rows=1, show_progress=False)
    assert (report.resumed, report.rows, len(rows_of(report))) == (2, 6, 6)


def test_another_size_is_refused_before_anything_is_written(source, settings, tmp_path):
    embed_files(source, tmp_path / "out", settings, show_progress=False)
    before = sorted(path.name for path in (tmp_path / "out").iterdir())
    with pytest.raises(BulkError, match="was begun with another model, size or prompt"):
        embed_files(source, tmp_path / "out", replace(settings, task="query"), show_progress=False)
    assert before == sorted(path.name for path in (tmp_path / "out").iterdir())
    with pytest.raises(SizeError, match="layer"):
        embed_files(source, tmp_path / "new", replace(settings, layer=99), show_progress=False)
    assert not (tmp_path / "new").exists()


def test_more_input_joins_a_finished_job(source, settings, tmp_path):
    embed_files(source, tmp_path / "out", settings, show_progress=False)
    (source / "c.txt").write_text("the tree\n")
    report = embed_files(source, tmp_path / "out", settings, show_progress=False)
    assert (report.resumed, report.rows) == (2, 7)


def test_a_part_of_another_model_is_refused(source, settings, tmp_path, monkeypatch):
    monkeypatch.setattr(embedding_jobs, "embed_shard", lambda *some: replace(embed_shard(*some), fingerprint="other"))
    with pytest.raises(BulkError, match=r"Every machine must have the same model, but one made part-.* other"):
        embed_files(source, tmp_path / "out", settings, show_progress=False)


def test_the_engine_is_named_and_chosen_by_rows(source, settings, tmp_path, monkeypatch):
    with pytest.raises(BulkError, match='engine must be "auto", "local" or "ray", got \'dask\''):
        embed_files(source, tmp_path / "out", settings, engine="dask")
    asked = []

    def with_ray(shards, columns, output, settings, *, workers):
        asked.append((len(shards), workers))
        yield from ()

    monkeypatch.setattr(embedding_jobs, "embed_with_ray", with_ray)
    monkeypatch.setattr(embedding_jobs, "find_spec", lambda name: name)
    monkeypatch.setattr(embedding_jobs, "RAY_PAYS_FROM", 7)
    embed_files(source, tmp_path / "local", settings, show_progress=False)
    assert asked == []
    monkeypatch.setattr(embedding_jobs, "RAY_PAYS_FROM", 6)
    embed_files(source, tmp_path / "ray", settings, show_progress=False, workers=3)
    assert asked == [(2, 3)]


def test_the_bar_counts_rows(source, settings, tmp_path, capsys):
    embed_files(source / "a.jsonl", tmp_path / "out", settings, shard_rows=2)
    assert "3/3" in capsys.readouterr().err


def test_an_export_is_embedded_without_torch(source, model, tmp_path):
    export_onnx(model, tmp_path / "onnx", show_progress=False)
    code = (
        f"import sys; sys.path[:0] = {[str(ROOT), str(ROOT / 'export')]!r}; from st_plugins.bulk import *; "
        f"r = embed_files({str(source)!r}, {str(tmp_path / 'out')!r}, JobSettings({str(tmp_path / 'onnx')!r}), "
        "show_progress=False); print(r.rows, 'torch' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["6", "False"]


@pytest.mark.slow
def test_killed_at_any_moment_nothing_is_lost_or_doubled(settings, tmp_path):
    """SIGKILL, again and again, until the job gets through."""
    texts = tmp_path / "texts.txt"
    texts.write_text("".join(f"the cat {n}\n" for n in range(40_000)))
    code = (
        "from st_plugins.bulk import *; "
        f"embed_files({str(texts)!r}, {str(tmp_path / 'out')!r}, JobSettings({settings.model!r}, device='cpu'), "
        "shard_rows=500, show_progress=False)"
    )
    for kills in range(3):
        run = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
        while len(list((tmp_path / "out").glob("part-*.parquet"))) < 10 * (kills + 1):
            assert run.poll() is None
            time.sleep(0.01)
        os.kill(run.pid, signal.SIGKILL)
        run.wait()
    report = embed_files(texts, tmp_path / "out", settings, shard_rows=500, show_progress=False)
    assert 30 <= report.resumed < 80
    ids = [id for part in report.parts for id in pq.read_table(tmp_path / "out" / part.part)["id"].to_pylist()]
    assert ids == [f"texts.txt:{n}" for n in range(40_000)]
    assert not list((tmp_path / "out").glob("*.unfinished"))


def test_a_job_does_not_read_what_it_wrote(source, settings, tmp_path):
    for place in (source / "out", source):
        with pytest.raises(BulkError, match="output must lie apart from the input, got .* Name another folder"):
            embed_files(source, place, settings, show_progress=False)
    pattern = str(tmp_path / "**" / "*.jsonl")
    with pytest.raises(BulkError, match="output must lie apart from the input"):
        embed_files(pattern, tmp_path, settings, show_progress=False)
    assert not (source / "out").exists()
