"""The fast tests ask Ray for nothing. The slow ones run it; `make test-bulk` installs it."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from st_plugins.bulk import JobSettings, embed_files, ray_engine
from st_plugins.bulk.parts import Columns
from st_plugins.bulk.shards import plan_shards
from st_plugins.errors import BulkError, MissingExtraError

ROOT = Path(__file__).parents[3]
needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="make test-bulk installs ray")


def test_ray_is_needed(source, settings, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"'ray', which is not installed. Run: pip install 'st-plugins\[ray\]'"):
        embed_files(source, tmp_path / "out", settings, engine="ray", show_progress=False)


@pytest.mark.parametrize(
    ("cluster", "workers", "device", "expected"),
    [
        ({"CPU": 2}, None, None, (2, {"num_cpus": 0.5})),
        ({"CPU": 1}, None, None, (1, {"num_cpus": 0.5})),
        ({"CPU": 64}, None, None, (64, {"num_cpus": 0.98})),
        ({"CPU": 64}, 8, None, (8, {"num_cpus": 1.0})),
        ({"CPU": 64, "GPU": 4}, None, None, (4, {"num_gpus": 1.0, "num_cpus": 0.5})),
        ({"CPU": 64, "GPU": 4}, 8, "cuda", (8, {"num_gpus": 0.5, "num_cpus": 0.5})),
        ({"CPU": 64, "GPU": 4}, 8, "cpu", (8, {"num_cpus": 1.0})),
    ],
)
def test_workers_leave_a_core_to_ray(cluster, workers, device, expected):
    count, resources = ray_engine._shares(cluster, workers, JobSettings("m", device=device))
    assert (count, resources) == expected
    assert count * resources["num_cpus"] <= max(cluster["CPU"] - 1, 0.5)


def test_an_export_asks_for_gpus_only_if_it_shall_run_on_them(tmp_path):
    (tmp_path / "manifest.json").touch()
    cluster = {"CPU": 64, "GPU": 4}
    assert ray_engine._shares(cluster, 8, JobSettings(str(tmp_path)))[1] == {"num_cpus": 1.0}
    assert ray_engine._shares(cluster, 4, JobSettings(str(tmp_path), device="cuda"))[1]["num_gpus"] == 1.0


def test_a_cluster_without_cores_is_refused():
    with pytest.raises(BulkError, match=r"The Ray cluster must have a core for a worker, got \{'CPU': 0\}"):
        ray_engine._shares({"CPU": 0}, None, JobSettings("m"))


def test_a_worker_does_shards_given_as_json(source, settings, tmp_path):
    worker = ray_engine.ShardWorker(settings, Columns("text", "key"), tmp_path)
    shards = plan_shards(source, shard_rows=2)
    lines = [ray_engine._line(shard) for shard in shards]
    assert [ray_engine._parsed(line) for line in lines] == shards
    answer = worker({"shard": np.array(lines, dtype=object)})
    assert answer["shard"] == lines
    assert len(list(tmp_path.glob("part-*.parquet"))) == 4
    assert len(answer["part"]) == 4
    assert answer["refusal"] == [""] * 4


def test_a_worker_says_what_it_refuses(source, settings, tmp_path):
    worker = ray_engine.ShardWorker(settings, Columns("text", "key"), tmp_path)
    (shard,) = plan_shards(source / "a.jsonl", shard_rows=9)
    answer = worker({"shard": [ray_engine._line(replace(shard, rows=4))]})
    assert answer["part"] == [""]
    assert answer["refusal"][0].endswith("it changed while the job was running. Run the job again.")


def ids_of(folder):
    return sorted(id for part in folder.glob("part-*.parquet") for id in pq.read_table(part)["id"].to_pylist())


@pytest.fixture
def many(tmp_path):
    """4,000 rows."""
    texts = tmp_path / "many.txt"
    texts.write_text("".join(f"the cat {n}\n" for n in range(4000)))
    return texts


@needs_ray
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
class TestOnRay:
    def test_it_does_what_one_process_does(self, many, settings, tmp_path, monkeypatch):
        monkeypatch.chdir(Path(settings.model).parent)
        settings = replace(settings, model=Path(settings.model).name)  # a path from here, which workers need not share
        here = embed_files(many, tmp_path / "here", settings, shard_rows=1000, engine="local", show_progress=False)
        there = embed_files(many, tmp_path / "there", settings, shard_rows=1000, engine="ray", show_progress=False)
        assert [part.content for part in here.parts] == [part.content for part in there.parts]
        for part in here.parts:
            one, other = (
                pq.read_table(folder / part.part)["embedding"].to_pylist() for folder in (here.folder, there.folder)
            )
            np.testing.assert_allclose(np.array(one), np.array(other), atol=1e-6)

    def test_errors_of_ours_arrive_as_they_are(self, many, settings, tmp_path):
        (tmp_path / "texts.csv").write_text("text\nthe cat\n")
        with pytest.raises(BulkError, match="must have a column 'body'"):
            embed_files(
                tmp_path / "texts.csv", tmp_path / "out", settings, text="body", engine="ray", show_progress=False
            )

    def test_killed_workers_lose_nothing(self, many, settings, tmp_path):
        code = (
            "from st_plugins.bulk import *; "
            f"r = embed_files({str(many)!r}, {str(tmp_path / 'out')!r}, JobSettings({settings.model!r}, device='cpu'), "
            "shard_rows=20, engine='ray', show_progress=False); print(r.rows)"
        )
        run = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        killed = 0
        while run.poll() is None:
            if killed < 3 and len(list((tmp_path / "out").glob("part-*.parquet"))) > 10 * (killed + 1):
                workers = subprocess.run(
                    ["pgrep", "-f", "ray::.*ShardWorker"], capture_output=True, text=True
                ).stdout.split()
                if workers:
                    os.kill(int(workers[0]), signal.SIGKILL)
                    killed += 1
            time.sleep(0.2)
        assert run.stdout.read().split()[-1] == "4000"
        assert killed
        assert ids_of(tmp_path / "out") == sorted(f"many.txt:{n}" for n in range(4000))

    def test_a_lost_machine_loses_nothing(self, many, settings, tmp_path):
        import ray
        from ray.cluster_utils import Cluster

        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
        other = cluster.add_node(num_cpus=2)
        ray.init(address=cluster.address, log_to_driver=False)
        try:
            import threading

            def lose():
                while len(list((tmp_path / "out").glob("part-*.parquet"))) < 5:
                    time.sleep(0.2)
                cluster.remove_node(other, allow_graceful=False)
                cluster.add_node(num_cpus=2)

            thief = threading.Thread(target=lose)
            thief.start()
            report = embed_files(many, tmp_path / "out", settings, shard_rows=100, engine="ray", show_progress=False)
            thief.join()
            assert report.rows == 4000
            assert ids_of(tmp_path / "out") == sorted(f"many.txt:{n}" for n in range(4000))
        finally:
            ray.shutdown()
            cluster.shutdown()
