"""Codebooks fitted, documents found by their codes."""

import numpy as np

from st_plugins.compression import faiss_index, fit_codebooks
from st_plugins.modules import ProductQuantization

vectors = np.random.default_rng(0).normal(size=(400, 16)).astype(np.float32)
vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
module = ProductQuantization(16, parts=8, centroids=16)
fit_codebooks(module, vectors)
index = faiss_index(module)
index.add(vectors)
assert index.search(vectors[:1], 5)[1][0].tolist().count(0) == 1
print("ok")
