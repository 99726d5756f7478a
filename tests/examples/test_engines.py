"""The examples with engines that are too large for the development environment; `make test-bulk` installs those."""

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXPECTED = ["A cat purrs. 384 None", "the text is blank", "A dog barks. 384 None"]


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["ray", "daft", "pyspark"])
def test_an_engine_takes_the_worker(engine):
    if find_spec(engine) is None or (engine == "pyspark" and shutil.which("java") is None):
        pytest.skip(f"{engine} is not installed: make test-bulk installs it; Spark needs Java")
    script = ROOT / "examples" / "engines" / f"bulk_{engine.removeprefix('py')}.py"
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'export'}", "PYSPARK_PYTHON": sys.executable}
    run = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    for line in EXPECTED:
        assert line in run.stdout
