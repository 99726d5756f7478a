import numpy as np
import pytest
import torch

from st_plugins.compression import faiss_index, fit_codebooks
from st_plugins.compression.faiss_indexes import bits_of, faiss
from st_plugins.errors import InputError, ShapeError
from st_plugins.modules import ProductQuantization


@pytest.fixture(scope="module")
def fitted():
    torch.manual_seed(0)
    vectors = torch.nn.functional.normalize(torch.randn(500, 16), dim=-1)
    module = ProductQuantization(16, parts=4, centroids=16).eval()
    fit_codebooks(module, vectors)
    return module, vectors


def test_its_scores_are_the_products_of_the_module(fitted, tmp_path):
    module, vectors = fitted
    index = faiss_index(module)
    index.add(vectors.numpy())
    with torch.no_grad():
        documents = module({"sentence_embedding": vectors}, task="document")["sentence_embedding"]
        queries = module({"sentence_embedding": vectors[:9]}, task="query")["sentence_embedding"]
    expected, rows = (queries @ documents.T).topk(5)
    scores, found = index.search(vectors[:9].numpy(), 5)
    assert np.abs(scores - expected.numpy()).max() < 1e-5
    assert (found == rows.numpy()).mean() > 0.95  # equal codes are equal scores, in any order
    assert index.sa_code_size() == 2  # 4 parts of 4 bits
    faiss().write_index(index, str(tmp_path / "index"))
    again = faiss().read_index(str(tmp_path / "index")).search(vectors[:9].numpy(), 5)[0]
    assert np.array_equal(again, scores)


@pytest.mark.parametrize(("parts", "centroids"), [(4, 16), (3, 8), (2, 256), (2, 512)])
def test_codes_that_are_known_are_the_index(parts, centroids):
    torch.manual_seed(0)
    module = ProductQuantization(12, parts=parts, centroids=centroids).eval()
    vectors = torch.nn.functional.normalize(torch.randn(50, 12), dim=-1)
    filled = faiss_index(module)
    filled.add(vectors.numpy())
    codes = module.codes(module.rotate(vectors))
    known = faiss_index(module, codes)
    assert (known.ntotal, filled.ntotal) == (50, 50)
    for expected, found in zip(filled.search(vectors.numpy(), 5), known.search(vectors.numpy(), 5), strict=True):
        assert np.array_equal(expected, found)
    rounded = module({"sentence_embedding": vectors})["sentence_embedding"].detach()
    assert torch.equal(module.codes(rounded), codes)  # what was rounded is rounded to itself


def test_codes_that_are_none_are_refused():
    module = ProductQuantization(8, parts=2, centroids=4)
    for wrong in (np.zeros((3, 2)), np.zeros((3, 3), int), np.full((3, 2), 4), np.full((3, 2), -1)):
        with pytest.raises(ShapeError, match=r"codes must be integers from 0 to 3 of shape \(N, 2\), got"):
            faiss_index(module, wrong)


@pytest.mark.parametrize("centroids", [1, 3, 100])
def test_centroids_that_faiss_does_not_have_are_refused(centroids):
    with pytest.raises(InputError, match="faiss needs a power of two of centroids, from 2 to 65,536, got"):
        faiss_index(ProductQuantization(8, parts=2, centroids=centroids))


def test_bits():
    assert [bits_of(ProductQuantization(8, parts=2, centroids=count)) for count in (2, 16, 256)] == [1, 4, 8]
