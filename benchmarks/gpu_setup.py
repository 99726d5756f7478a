"""The models, exports and texts that ``gpu.py`` compares, each made when it is first needed."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from functools import cached_property
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from sentence_transformers import SentenceTransformer

import st_plugins
from st_plugins.exits import ExitPolicy, Saturation
from st_plugins_export import OnnxEncoder, export_onnx
from st_plugins_export.graph import plain_copy, write_graph
from texts import docstrings

EXIT = "bench"
HERE = Path(__file__).parent


class Setup:
    """One machine, one model."""

    def __init__(self, model: Path, device: str, is_quick: bool, export: Path | None, scratch: Path) -> None:
        self.folder = model
        self.device = device
        self.is_quick = is_quick
        self.scratch = scratch
        self.failures: list[str] = []
        self._export = export or scratch / "export"

    def load(self, dtype: torch.dtype) -> SentenceTransformer:
        """The model on the device; float16 weights become float32 exactly."""
        return SentenceTransformer(str(self.folder), device=self.device, model_kwargs={"dtype": dtype}).eval()

    @cached_property
    def model(self) -> SentenceTransformer:
        """The float32 model, elastic, with an exit policy by which texts leave at every third of its depth."""
        model = st_plugins.elastic(self.load(torch.float32))
        first = model[0]
        thirds = sorted({first.depth // 3, 2 * first.depth // 3, first.depth})
        first.add_sizes([(layer, model.get_embedding_dimension()) for layer in thirds[:-1]])
        first.add_exit_policy(ExitPolicy(EXIT, Saturation(), 0.8, tuple(thirds)))
        return model

    @cached_property
    def export(self) -> Path:
        """The exported folder."""
        if not self._export.exists():
            model = self.model.to("cpu")
            print(export_onnx(model, self._export, exits=[EXIT], precisions=["fp16"], show_progress=False))
            model.to(self.device)
        return self._export

    @cached_property
    def optimized(self) -> Path:
        """A copy of the export whose graph went through ONNX Runtime's offline optimizer, in float16."""
        copy, name = self.scratch / "optimized", "onnx/model.onnx"
        shutil.copytree(self.export, copy)
        config = self.model[0].model.config
        padded = self.scratch / "padded.onnx"  # the optimizer finds no attention between packed tokens
        write_graph(plain_copy(self.model), padded, packed=False)
        command = [sys.executable, str(HERE / "ort_optimizer.py"), str(padded), str(copy / name)]
        command += ["--heads", str(config.num_attention_heads), "--hidden", str(config.hidden_size)]
        subprocess.run(command, check=True, env=_without_this_onnxruntime())
        manifest = json.loads((copy / "manifest.json").read_text())
        manifest["files"][name] = hashlib.sha256((copy / name).read_bytes()).hexdigest()
        (copy / "manifest.json").write_text(json.dumps(manifest))
        return copy

    def encoder(self, folder: Path | None = None, **options: Any) -> OnnxEncoder:
        """The export on the device."""
        return OnnxEncoder(folder or self.export, providers=self.device, **options)

    @cached_property
    def workloads(self) -> dict[str, list[str]]:
        """Short queries, passages of a few hundred tokens, and half of each."""
        count = 4 if self.is_quick else 2048
        texts = docstrings(min(count, 1900))
        short = [text[:60] for text in (texts * 2)[:count]]
        long = [" ".join(texts[i : i + 12])[: 500 + i % 500] for i in range(len(texts))][: count // 2]
        return {"queries": short, "passages": long, "mixed": [*short[: len(long)], *long]}

    @property
    def rounds(self) -> int:
        """Of every measurement, one more to warm up."""
        return 1 if self.is_quick else 3

    def synchronize(self) -> None:
        """Wait for the GPU."""
        if self.device != "cpu":
            torch.cuda.synchronize()

    def describe(self) -> dict[str, Any]:
        """Which onnxruntime runs on what; opens the first session."""
        encoder = self.encoder()
        encoder.encode("a")
        session = encoder._opened.session(encoder._manifest.full)
        facts = {
            "onnxruntime": onnxruntime.__version__,
            "from": str(Path(onnxruntime.__file__).parent.name),
            "available": onnxruntime.get_available_providers(),
            "running": session.get_providers(),
            "gpu": torch.cuda.get_device_name() if self.device != "cpu" else None,
        }
        print(facts)
        return facts


def _without_this_onnxruntime() -> dict[str, str]:
    """The environment, less the place of an onnxruntime that came without its optimizer."""
    here = Path(onnxruntime.__file__).parent
    if (here / "transformers").is_dir():
        return dict(os.environ)
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    kept = [path for path in paths if Path(path).resolve() != here.parent.resolve()]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(kept)}
