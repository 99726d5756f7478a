"""Exports the full size and a small one, and encodes the corpus without torch."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from sentence_transformers import SentenceTransformer

from st_plugins_export import OnnxEncoder, export_onnx

SMALL = (2, 96)


def export_two_sizes(model: SentenceTransformer, folder: Path, documents: list[str]) -> OnnxEncoder:
    """Export, print the parity report, encode, and compare with torch."""
    report = export_onnx(model, folder, sizes=[SMALL])
    print(replace(report, folder=Path(folder.name)))
    encoder = OnnxEncoder(folder)
    vectors = encoder.encode_document(documents, show_progress_bar=True)
    expected = model.encode_document(documents, show_progress_bar=False)
    print(f"{len(documents)} documents: largest difference to torch {np.abs(vectors - expected).max():.1e}")
    return encoder
