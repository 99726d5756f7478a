import pytest
import torch
from sentence_transformers import SentenceTransformer

import reference
import st_plugins
from st_plugins.errors import ShapeError, SizeError
from st_plugins.modules import ResidualMap


def random_map(width=4, other=3, hidden=5):
    residual = ResidualMap(width, other, hidden)
    for parameter in residual.parameters():
        torch.nn.init.normal_(parameter)
    return residual


def test_it_is_the_formula_number_by_number():
    residual, embeddings = random_map(), torch.randn(6, 4)
    found = residual({"sentence_embedding": embeddings})["sentence_embedding"]
    weights = {name: tensor.tolist() for name, tensor in residual.state_dict().items()}
    for row, embedding in zip(found, embeddings.tolist(), strict=True):
        assert row.tolist() == pytest.approx(reference.residual_map(embedding, weights), abs=1e-5)


@pytest.mark.parametrize(("width", "other", "expected"), [(3, 2, [0.6, 0.8]), (2, 3, [0.6, 0.8, 0.0])])
def test_a_new_one_cuts_or_fills_up(width, other, expected):
    features = {"sentence_embedding": torch.tensor([[3.0, 4.0, 12.0]])[:, :width]}
    assert ResidualMap(width, other, 7)(features)["sentence_embedding"][0].tolist() == pytest.approx(expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_embeddings_keep_their_dtype(dtype):
    residual, embeddings = random_map(), torch.randn(2, 4).to(dtype)
    found = residual({"sentence_embedding": embeddings})["sentence_embedding"]
    assert found.dtype == dtype
    expected = residual({"sentence_embedding": embeddings.float()})["sentence_embedding"]
    assert torch.allclose(found.float(), expected, atol=1e-2)


def test_gradients_equal_finite_differences():
    residual = random_map().double()
    embeddings = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)

    def value(embeddings):
        return residual({"sentence_embedding": embeddings})["sentence_embedding"]

    assert torch.autograd.gradcheck(value, (embeddings,))


def test_saved_and_loaded(plain, texts, tmp_path):
    model = SentenceTransformer(modules=[*plain.children(), random_map(16, 8)], device="cpu").eval()
    assert model.get_embedding_dimension() == 8
    model.save_pretrained(str(tmp_path / "model"))
    again = st_plugins.load(tmp_path / "model", device="cpu")
    assert torch.equal(torch.tensor(again.encode(texts)), torch.tensor(model.encode(texts)))


def test_sizes_that_cannot_be_are_refused():
    for sizes in ((0, 1, 1), (1, 0, 1), (1, 1, 0), (1, True, 1)):
        with pytest.raises(SizeError, match="ResidualMap needs a positive integer"):
            ResidualMap(*sizes)
    with pytest.raises(ShapeError, match=r"shape \(batch, 4\), got \(1, 3\). Put it before any truncation"):
        random_map()({"sentence_embedding": torch.ones(1, 3)})
