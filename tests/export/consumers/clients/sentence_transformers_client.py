"""sentence-transformers 5.7 with optimum: the vectors of an export under backend="onnx"."""

import json
import sys
from pathlib import Path

from sentence_transformers import SentenceTransformer

folder, given, made = map(Path, sys.argv[1:])
options = {"file_name": "onnx/model.onnx", "provider": "CPUExecutionProvider", "export": False}
model = SentenceTransformer(str(folder), backend="onnx", model_kwargs=options, device="cpu")
made.write_text(json.dumps({"encode": model.encode(json.loads(given.read_text())).tolist()}))
