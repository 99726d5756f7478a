"""What an import costs, in times of ``import numpy``, and whether it brings torch along.

    python benchmarks/bench_imports.py

Each in fresh interpreters, in turns; medians of five, less what an empty interpreter takes.
"""

import statistics
import subprocess
import sys
import time

from timing import print_machine

ROUNDS = 5
IMPORTS = {
    "numpy": "import numpy",
    "st_plugins": "import st_plugins",
    "st_plugins.commands.program": "import st_plugins.commands.program",
    "st_plugins_export: OnnxEncoder": "from st_plugins_export import OnnxEncoder",
    "onnxruntime": "import onnxruntime",
    "langchain_core: BaseRetriever, BaseTool": (
        "from langchain_core.retrievers import BaseRetriever; from langchain_core.tools import BaseTool"
    ),
    "langchain_st_plugins": "import langchain_st_plugins",
    "sentence_transformers": "import sentence_transformers",
    "st_plugins.elastic": "from st_plugins import elastic",
    "st_plugins.losses": "import st_plugins.losses",
}


def main() -> None:
    print_machine("sentence-transformers", "numpy", "onnxruntime", "langchain-core")
    empty = statistics.median(seconds("pass") for _ in range(ROUNDS))
    found: dict[str, list[float]] = {name: [] for name in IMPORTS}
    for _ in range(ROUNDS):
        for name, statement in IMPORTS.items():
            found[name].append(seconds(statement) - empty)
    base = statistics.median(found["numpy"])
    print("\n| | times of numpy's | brings torch |\n|---|---|---|")
    for name, values in found.items():
        print(f"| {name} | {statistics.median(values) / base:.2f} | {'yes' if brings_torch(IMPORTS[name]) else 'no'} |")


def seconds(statement: str) -> float:
    """Of a fresh interpreter that runs it."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], check=True, capture_output=True)
    return time.perf_counter() - started


def brings_torch(statement: str) -> bool:
    code = f"{statement}\nimport sys; print('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return run.stdout.split()[-1] == "True"


if __name__ == "__main__":
    main()
