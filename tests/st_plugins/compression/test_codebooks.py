import sys

import pytest
import torch

from st_plugins.compression import fit_codebooks
from st_plugins.errors import InputError, MissingExtraError, ShapeError
from st_plugins.modules import ProductQuantization


def correlated(count=600, width=8):
    """Unit vectors that vary along two directions, which no part of the coordinates has alone."""
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(2, width, generator=generator)
    return torch.nn.functional.normalize(torch.randn(count, 2, generator=generator) @ mixing, dim=-1)


def error_of(module, vectors):
    with torch.no_grad():
        return float(module({"sentence_embedding": vectors})["quantization_error"].mean())


def test_the_rotation_is_one_and_serves_the_vectors():
    vectors = correlated()
    module = ProductQuantization(8, parts=4, centroids=16).eval()
    fit_codebooks(module, vectors)
    identity = module.rotate.weight @ module.rotate.weight.T
    assert torch.allclose(identity, torch.eye(8), atol=1e-4)
    fitted = error_of(module, vectors)
    rotation, module.rotate.weight.data = module.rotate.weight.data, torch.eye(8)
    centroids = ProductQuantization(8, parts=4, centroids=16).eval()
    assert fitted < 0.02
    assert error_of(module, vectors) > 5 * fitted  # with another rotation
    assert error_of(centroids, vectors) > 5 * fitted
    module.rotate.weight.data = rotation
    assert error_of(module, correlated(900)[600:]) < 0.02


def test_lengths_do_not_matter_and_a_seed_decides_all():
    vectors = correlated()
    found = []
    for given in (vectors, 3 * vectors, vectors.numpy()):
        module = ProductQuantization(8, parts=2, centroids=16)
        fit_codebooks(module, given, seed=3)
        found.append(module.codebooks.detach().clone())
    assert torch.allclose(found[0], found[1], atol=1e-4)
    assert torch.equal(found[0], found[2])


def test_what_cannot_be_fitted_is_refused(monkeypatch):
    module = ProductQuantization(8, parts=2, centroids=16)
    with pytest.raises(ShapeError, match=r"vectors must be of shape \(N, 8\), got \(20, 7\)"):
        fit_codebooks(module, torch.zeros(20, 7))
    with pytest.raises(InputError, match="at least as many vectors as centroids, 16, got 4"):
        fit_codebooks(module, torch.zeros(4, 8))
    with pytest.raises(InputError, match="vectors must be finite, and some hold NaN"):
        fit_codebooks(module, torch.full((20, 8), float("nan")))
    with pytest.raises(InputError, match="faiss needs a power of two of centroids, from 2 to 65,536, got 5"):
        fit_codebooks(ProductQuantization(8, parts=2, centroids=5), correlated())
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(MissingExtraError, match=r"st-plugins\[faiss\]"):
        fit_codebooks(module, correlated())
