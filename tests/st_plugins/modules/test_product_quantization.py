import copy

import pytest
import torch
from sentence_transformers import SentenceTransformer
from torch.nn.functional import normalize

import st_plugins
from st_plugins.errors import ShapeError, SizeError
from st_plugins.modules import ProductQuantization


def random_module(width=8, parts=4, centroids=5):
    return ProductQuantization(width, parts=parts, centroids=centroids).eval()


def rounded(module, embeddings, **options):
    with torch.no_grad():
        return module({"sentence_embedding": embeddings}, **options)


@pytest.fixture
def rounding(plain):
    """A model whose documents are rounded, with centroids from some of its own vectors."""
    module = ProductQuantization(16, parts=4, centroids=4)
    return SentenceTransformer(modules=[*plain.children(), module], device="cpu", similarity_fn_name="dot").eval()


def test_every_part_is_the_nearest_centroid():
    module, embeddings = random_module().requires_grad_(False), torch.randn(6, 8)
    found = rounded(module, embeddings)
    for row, vector, error in zip(embeddings, found["sentence_embedding"], found["quantization_error"], strict=True):
        x = module.rotate.weight @ (row / row.norm())
        expected, total = [], 0.0
        for part in range(4):
            mine = x[2 * part : 2 * part + 2]
            distances = [float(((mine - c) ** 2).sum()) for c in module.codebooks[part]]
            best = min(range(5), key=distances.__getitem__)
            expected += module.codebooks[part][best].tolist()
            total += distances[best]
        assert vector.tolist() == pytest.approx(expected, abs=1e-6)
        assert float(error) == pytest.approx(total, abs=1e-6)


def test_the_table_of_a_query_gives_the_product():
    module = random_module()
    query = rounded(module, torch.randn(1, 8), task="query")["sentence_embedding"][0]
    documents = torch.randn(7, 8)
    rotated = module.rotate(normalize(documents, dim=-1)).detach()
    table = torch.einsum("mkd,md->mk", module.codebooks.detach(), query.unflatten(0, (4, -1)))
    codes = module.codes(rotated)
    summed = table[torch.arange(4), codes].sum(dim=-1)
    products = rounded(module, documents, task="document")["sentence_embedding"] @ query
    assert torch.allclose(summed, products, atol=1e-6)


def test_float_queries_are_only_rotated():
    module, embeddings = random_module(), torch.randn(3, 8)
    query = rounded(module, embeddings, task="query")["sentence_embedding"]
    assert torch.allclose(query @ query.T, normalize(embeddings, dim=-1) @ normalize(embeddings, dim=-1).T, atol=1e-6)
    module.float_queries = False
    same = [rounded(module, embeddings, task=task)["sentence_embedding"] for task in ("query", "document")]
    assert torch.equal(*same)


def test_the_gradient_passes_the_rounding_and_reaches_the_chosen_centroids():
    module = random_module()
    embeddings = normalize(torch.randn(3, 8), dim=-1).requires_grad_()
    weights = torch.randn(3, 8)
    (module({"sentence_embedding": embeddings})["sentence_embedding"] * weights).sum().backward()
    unit = embeddings.detach().clone().requires_grad_()
    (module.rotate(normalize(unit, dim=-1)) * weights).sum().backward()
    assert torch.allclose(embeddings.grad, unit.grad, atol=1e-6)
    chosen = module.codes(module.rotate(embeddings).detach())
    expected = torch.zeros_like(module.codebooks)
    for row in range(3):
        for part in range(4):
            expected[part, chosen[row, part]] += weights[row, 2 * part : 2 * part + 2]
    assert torch.allclose(module.codebooks.grad, expected, atol=1e-6)
    assert module.rotate.weight.grad is None


def test_training_fills_the_centroids_evenly():
    torch.manual_seed(0)
    module = ProductQuantization(8, parts=2, centroids=4)
    rotated = module.rotate(normalize(torch.randn(64, 8) + 2, dim=-1)).detach()  # all in one direction
    nearest = module.eval().codes(rotated)
    balanced = module.train().codes(rotated)
    for part in range(2):
        assert nearest[:, part].bincount(minlength=4).max() > 30
        assert balanced[:, part].bincount(minlength=4).max() <= 20


def test_padding_batch_and_saving_change_nothing(rounding, texts, tmp_path):
    alone = torch.stack([torch.tensor(rounding.encode_document(text)) for text in texts])
    assert torch.allclose(alone, torch.tensor(rounding.encode_document(texts)), atol=1e-6)
    rounding.save_pretrained(str(tmp_path))
    loaded = st_plugins.load(tmp_path, device="cpu")
    assert torch.equal(torch.tensor(loaded.encode_document(texts)), torch.tensor(rounding.encode_document(texts)))
    assert torch.equal(torch.tensor(loaded.encode_query(texts)), torch.tensor(rounding.encode_query(texts)))
    assert st_plugins.fingerprint(loaded) == st_plugins.fingerprint(rounding)
    other = copy.deepcopy(rounding)
    other[-1].codebooks.data += 1
    assert st_plugins.fingerprint(other) != st_plugins.fingerprint(rounding)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_it_keeps_the_dtype(dtype):
    found = rounded(random_module(), torch.randn(2, 8).to(dtype))["sentence_embedding"]
    assert found.dtype == dtype


def test_what_cannot_be_is_refused():
    with pytest.raises(
        SizeError, match=r"parts must divide the 8 dimensions of the embedding, got 3. Take one of \[1, 2"
    ):
        ProductQuantization(8, parts=3)
    with pytest.raises(SizeError, match="needs a positive integer centroids, got 0"):
        ProductQuantization(8, parts=2, centroids=0)
    with pytest.raises(ShapeError, match=r"needs a sentence_embedding of shape \(batch, 8\), got \(2, 7\)"):
        random_module()({"sentence_embedding": torch.zeros(2, 7)})
