"""What a user writes. mypy and pyright check it against the installed packages: ``make test-types``."""

from pathlib import Path

import numpy as np
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

import st_plugins
from langchain_st_plugins import ElasticEmbeddings, ElasticVectorStore
from st_plugins.bulk import JobSettings, embed_files
from st_plugins.exits import ExitPolicy, calibrate_exits, encode_with_exits
from st_plugins.losses import ElasticLoss
from st_plugins_export import ExportReport, OnnxEncoder, export_onnx


def train(model: SentenceTransformer) -> ElasticLoss:
    elastic: SentenceTransformer = st_plugins.elastic(model, sizes=[(3, 128)])
    return ElasticLoss(elastic, MultipleNegativesRankingLoss(elastic), sizes=[(3, 128)])


def serve(folder: Path, texts: list[str]) -> np.ndarray:
    model = st_plugins.load(folder)
    policy: ExitPolicy = calibrate_exits(model, texts, name="mine", alpha=0.1)
    vectors, layers = encode_with_exits(model, texts, exit=policy.name)
    report: ExportReport = export_onnx(model, folder / "onnx", sizes=[(3, 128)])
    print(report.max_difference, layers.shape, vectors.shape)
    return OnnxEncoder(folder / "onnx").encode(texts, layer=3, truncate_dim=128)


def search(folder: str, question: str) -> str:
    store = ElasticVectorStore.from_texts(["Cats purr."], ElasticEmbeddings(model=folder), shortlist_dim=64)
    return store.similarity_search(question, k=1, layer=2)[0].page_content


def collect(source: str) -> int:
    return embed_files(source, "vectors", JobSettings("minilm-elastic", layer=3)).rows


print(st_plugins.fingerprint(st_plugins.bake(st_plugins.load("minilm-elastic"), layer=3)).upper())
