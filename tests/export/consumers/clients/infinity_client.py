"""infinity's ONNX engine: the vectors of an export under the pooling it takes by itself and the other one, by file."""

import asyncio
import json
import shutil
import sys
import tempfile
from pathlib import Path

from infinity_emb import AsyncEmbeddingEngine, EngineArgs
from infinity_emb.primitives import PoolingMethod

folder, given, made = map(Path, sys.argv[1:])
texts = json.loads(given.read_text())


async def embed(file="model.onnx", **options):
    with tempfile.TemporaryDirectory() as scratch:  # it writes an optimized graph into the folder
        copied = shutil.copytree(folder, Path(scratch) / "export")
        for graph in (copied / "onnx").glob("*.onnx"):  # it takes the file it likes best: leave it one
            if graph.name != file:
                graph.unlink()
        arguments = EngineArgs(
            model_name_or_path=str(copied), engine="optimum", device="cpu", model_warmup=False, **options
        )
        engine = AsyncEmbeddingEngine.from_args(arguments)
        async with engine:
            vectors, _ = await engine.embed(sentences=texts)
    return [vector.tolist() for vector in vectors]


vectors = {"default": asyncio.run(embed()), "mean": asyncio.run(embed(pooling_method=PoolingMethod.mean))}
for name in sorted(path.name for path in (folder / "onnx").glob("model_*.onnx")):
    vectors[f"onnx/{name}"] = asyncio.run(embed(name))
made.write_text(json.dumps(vectors))
