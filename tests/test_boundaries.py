"""What an import does not bring along. One fresh interpreter per boundary."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PATHS = [str(ROOT), str(ROOT / "export"), str(ROOT / "langchain_integration")]
HEAVY = ["torch", "transformers", "sentence_transformers"]
CASES = [
    ("st_plugins, st_plugins.errors", [*HEAVY, "numpy", "onnx", "onnxruntime", "langchain_core"]),
    ("st_plugins_export.runtime", [*HEAVY, "onnx", "langchain_core", "langchain_st_plugins"]),
    ("langchain_st_plugins", [*HEAVY, "onnx", "onnxruntime", "usearch", "st_plugins_export"]),
    ("st_plugins.losses, st_plugins.loading, st_plugins.elastic_model, st_plugins.fingerprints, "
     "st_plugins.evaluation, st_plugins.exits",
     ["onnx", "onnxruntime", "langchain_core", "st_plugins_export", "langchain_st_plugins", "mteb", "polars",
      "matplotlib"]),
    ("st_plugins.bulk, st_plugins.commands.program", [*HEAVY, "pyarrow", "ray", "onnxruntime"]),
]  # fmt: skip


def loaded_by(statement, names):
    code = f"import sys; sys.path[:0] = {PATHS!r}; {statement}; print([n for n in {names!r} if n in sys.modules])"
    run = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    return run.stdout.splitlines()[-1]


SLOW = "st_plugins.losses"  # the only one that imports sentence-transformers, which takes seconds


@pytest.mark.parametrize(
    ("modules", "forbidden"),
    [
        pytest.param(*case, id=(name := case[0].split(",")[0]), marks=[pytest.mark.slow] if name == SLOW else [])
        for case in CASES
    ],
)
def test_an_import_brings_no_more_than_it_needs(modules, forbidden):
    assert loaded_by(f"import {modules}", forbidden) == "[]"


def test_the_test_above_can_fail():
    assert loaded_by("import numpy", ["numpy", "torch"]) == "['numpy']"


def test_importing_changes_no_settings():
    code = (
        "import os, warnings, logging; before = (dict(os.environ), list(warnings.filters), logging.root.level); "
        f"import sys; sys.path[:0] = {PATHS!r}; import st_plugins; "
        "print(before == (dict(os.environ), list(warnings.filters), logging.root.level))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "True"
