"""The real consumers of exports: where they live, how they are installed, started, asked and stopped.

Each has a virtual environment (or a node folder) of its own below ``.consumers``, made by the first test that needs
it, as their requirements contradict each other and ours. Versions are pinned in ``export/consumers/requirements``. What
cannot be installed fails the test with the installer's words.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

CASES = Path(__file__).parent / "export" / "consumers"
_CACHE = Path(__file__).parent.parent / ".consumers"
_REQUIREMENTS = CASES / "requirements"
# Seconds after which a step is taken for hung; the machine may be busy.
_INSTALL, _START, _ASK = 1200, 180, 120


def python_for(name: str) -> Path:
    """The Python of a consumer that comes from PyPI."""
    folder, requirements = _CACHE / name, _REQUIREMENTS / f"{name}.txt"
    python = folder / "bin" / "python"
    if _is_outdated(folder, requirements):
        _run([sys.executable, "-m", "venv", folder])
        pip = [python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
        _run([*pip, "--requirement", requirements])
        (folder / "ready").write_text(requirements.read_text())
    return python


def compat_python() -> Path:
    """The Python with sentence-transformers 5.7 and optimum, which ``make`` sets up for ``make test-compat``."""
    python = CASES.parent.parent.parent / ".venv-compat" / "bin" / "python"
    if not python.exists():
        raise RuntimeError(f"{python} must exist, and does not. Run: make .venv-compat/ready")
    return python


def node_folder_for(name: str) -> Path:
    """The folder of a consumer that comes from npm."""
    folder, requirements = _CACHE / name, _REQUIREMENTS / f"{name}.json"
    if _is_outdated(folder, requirements):
        folder.mkdir(parents=True)
        shutil.copy(requirements, folder / "package.json")
        # Without the switch an install script fetches CUDA libraries from elsewhere.
        _run(["npm", "install", "--no-progress"], cwd=folder, environment={"ONNXRUNTIME_NODE_INSTALL": "skip"})
        (folder / "ready").write_text(requirements.read_text())
    return folder


def _is_outdated(folder: Path, requirements: Path) -> bool:
    ready = folder / "ready"
    if ready.exists() and ready.read_text() == requirements.read_text():
        return False
    shutil.rmtree(folder, ignore_errors=True)
    return True


def ask_client(command: Sequence[Any], folder: Path, texts: Sequence[str], scratch: Path) -> dict[str, np.ndarray]:
    """Run a program of ``export/consumers/clients``: vectors (N, D) by the way it took to get them.

    Args:
        command: Interpreter and program. Gets three more arguments: the export, a file of texts, a file to write.
        folder: The export.
        texts: N texts.
        scratch: Where those two files go.
    """
    given, made = scratch / "texts.json", scratch / "vectors.json"
    given.write_text(json.dumps(list(texts)))
    _run([*command, folder, given, made], cwd=scratch)
    return {way: np.array(vectors, dtype=np.float64) for way, vectors in json.loads(made.read_text()).items()}


@contextmanager
def running_server(command: Sequence[Any], url: str, log: Path, **environment: str) -> Iterator[None]:
    """A server that answers at ``url`` while the block runs."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(part) for part in command], stdout=output, stderr=subprocess.STDOUT, env=_environment(environment)
        )
    try:
        deadline = time.monotonic() + _START
        while not _answers(url):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{command[0]} does not answer at {url}:\n{log.read_text()[-4000:]}")
            time.sleep(0.2)
        yield
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def infer(url: str, texts: Sequence[str]) -> np.ndarray:
    """The vectors (N, D) that a server gives for texts over the V2 (KServe) protocol."""
    tensor = {"name": "text", "datatype": "BYTES", "shape": [len(texts), 1], "data": list(texts)}
    body = json.dumps({"inputs": [tensor]}).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=_ASK) as response:
        (output,) = json.load(response)["outputs"]
    assert output["name"] == "sentence_embedding"
    return np.array(output["data"]).reshape(output["shape"])


def free_port() -> int:
    """One that nobody listens at now."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _environment(more: dict[str, str]) -> dict[str, str]:
    """Consumers find neither our packages nor the network's models."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return {**kept, "HF_HUB_OFFLINE": "1", "PYTHONDONTWRITEBYTECODE": "1", **more}


def _run(command: Sequence[Any], cwd: Path | None = None, environment: dict[str, str] | None = None) -> None:
    run = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=_environment(environment or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=_INSTALL,
    )
    if run.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))} failed:\n{run.stdout[-4000:]}")
