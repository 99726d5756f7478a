"""MLServer and Triton start on ``serving/`` of an export and give the vectors of torch over HTTP."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import urllib.error
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import pytest

from consumer_environments import CASES, free_port, infer, python_for, running_server

pytestmark = pytest.mark.slow


@pytest.fixture
def mlserver(served, tmp_path):
    """The address of the model, served."""
    port, grpc_port, metrics_port = free_port(), free_port(), free_port()
    command = [python_for("mlserver").with_name("mlserver"), "start", served[1] / "serving" / "mlserver"]
    settings = {
        "MLSERVER_HOST": "127.0.0.1",
        "MLSERVER_HTTP_PORT": str(port),
        "MLSERVER_GRPC_PORT": str(grpc_port),
        "MLSERVER_METRICS_PORT": str(metrics_port),
        "MLSERVER_PARALLEL_WORKERS": "0",
    }
    model = f"http://127.0.0.1:{port}/v2/models/embedding"
    with running_server(command, f"{model}/ready", tmp_path / "mlserver.log", **settings):
        yield f"{model}/infer"


@pytest.fixture
def triton(tmp_path):
    """``triton(repository)``: a context in which Triton serves it, and the address of the model "embedding"."""

    def serve(repository):
        python = python_for("triton")
        (home,) = python.parent.parent.glob("lib/*/site-packages/pytriton/tritonserver")
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        stub = home / "python_backend_stubs" / version / "triton_python_backend_stub"
        shutil.copy(stub, home / "backends" / "python")  # where Triton looks for it
        port = free_port()
        command = [
            home / "bin" / "tritonserver",
            f"--model-repository={repository}",
            f"--backend-directory={home / 'backends'}",
            "--http-address=127.0.0.1",
            f"--http-port={port}",
            "--allow-grpc=false",
            "--allow-metrics=false",
        ]
        model = f"http://127.0.0.1:{port}/v2/models/embedding"
        # The stub links against a libpython, which finds its packages beside the first python of the PATH.
        path = f"{python.parent}:{os.environ['PATH']}"
        environment = {"LD_LIBRARY_PATH": sysconfig.get_config_var("LIBDIR"), "PATH": path}
        return running_server(command, f"{model}/ready", tmp_path / "triton.log", **environment), f"{model}/infer"

    return serve


def ask_at_once(url, texts):
    """One request per text, all at the same time."""
    with ThreadPoolExecutor(len(texts)) as pool:
        return np.concatenate(list(pool.map(lambda text: infer(url, [text]), texts)))


def test_mlserver_gives_the_vectors_of_torch(mlserver, served, consumer_texts, assert_vectors):
    texts = [*consumer_texts.short, consumer_texts.long]
    expected = served[0].encode(texts)
    assert_vectors(infer(mlserver, texts), expected, "one request")
    assert_vectors(ask_at_once(mlserver, texts), expected, "at once")


def test_triton_gives_the_vectors_of_torch(triton, served, consumer_texts, assert_vectors):
    texts = [*consumer_texts.short, consumer_texts.long]
    expected = served[0].encode(texts)
    running, url = triton(served[1] / "serving" / "triton")
    with running:
        assert_vectors(infer(url, texts), expected, "one request")
        assert_vectors(ask_at_once(url, texts), expected, "at once")
        with pytest.raises(urllib.error.HTTPError, match="400"):
            infer(url, ["too many"] * 65)


@pytest.fixture
def ensemble(served, tmp_path):
    """The ensemble as its README fills it, but "embed" runs in Python: there is no Triton with its own backend here."""
    folder = served[1]
    repository = shutil.copytree(folder / "serving" / "triton_ensemble", tmp_path / "repository")
    shutil.copy(folder / "onnx" / "model.onnx", repository / "embed" / "1")
    shutil.copy(folder / "tokenizer.json", repository / "tokenize" / "1")
    shutil.copy(CASES / "clients" / "triton_onnxruntime.py", repository / "embed" / "1" / "model.py")
    config = repository / "embed" / "config.pbtxt"
    config.write_text(config.read_text().replace('backend: "onnxruntime"', 'backend: "python"'))
    return repository


def test_the_ensemble_gives_the_vectors_of_torch(triton, ensemble, served, consumer_texts, assert_vectors):
    texts = [*consumer_texts.short, consumer_texts.long]
    expected = served[0].encode(texts)
    running, url = triton(ensemble)
    with running:
        assert_vectors(infer(url, texts), expected, "one request")
        assert_vectors(ask_at_once(url, texts), expected, "at once")


def test_triton_s_schema_reads_the_configurations(served):
    folder = served[1] / "serving"
    files = [*(folder / "triton_ensemble").rglob("config.pbtxt"), folder / "triton" / "embedding" / "config.pbtxt"]
    read = {}
    for file in files:
        command = [python_for("triton"), CASES / "clients" / "triton_configuration.py", file]
        run = subprocess.run(command, capture_output=True, text=True, check=True, env={})
        read[file.parent.relative_to(folder).as_posix()] = json.loads(run.stdout)
    graph = onnx.load(served[1] / "onnx" / "model.onnx").graph
    tokens = [[tensor.name, "TYPE_INT64", [-1]] for tensor in graph.input]
    width = graph.output[1].type.tensor_type.shape.dim[-1].dim_value
    text, vectors = [["text", "TYPE_STRING", [1]]], [["sentence_embedding", "TYPE_FP32", [width]]]
    embed = read["triton_ensemble/embed"]
    assert (embed["name"], embed["backend"], embed["max_batch_size"]) == ("embed", "onnxruntime", 64)
    assert (embed["input"], embed["output"]) == (tokens, vectors)
    assert embed["preferred_batch_size"] == [8, 16, 32, 64]
    assert (read["triton_ensemble/tokenize"]["input"], read["triton_ensemble/tokenize"]["output"]) == (text, tokens)
    names = {tensor.name: tensor.name for tensor in graph.input}
    assert read["triton_ensemble/embedding"]["steps"] == [
        ["tokenize", {"text": "text"}, names],
        ["embed", names, {"sentence_embedding": "sentence_embedding"}],
    ]
    assert (read["triton/embedding"]["input"], read["triton/embedding"]["output"]) == (text, vectors)
