"""sentence-transformers 5.7 with optimum: the vectors of an export under backend="onnx", file by file."""

import json
import sys
from pathlib import Path

from sentence_transformers import SentenceTransformer

folder, given, made = map(Path, sys.argv[1:])
texts, vectors = json.loads(given.read_text()), {}
for file in sorted(path.relative_to(folder).as_posix() for path in (folder / "onnx").glob("*.onnx")):
    options = {"file_name": file, "provider": "CPUExecutionProvider", "export": False}
    model = SentenceTransformer(str(folder), backend="onnx", model_kwargs=options, device="cpu")
    vectors[file] = model.encode(texts).tolist()
made.write_text(json.dumps(vectors))
