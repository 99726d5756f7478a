import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from sentence_transformers.util import quantize_embeddings

import reference
import st_plugins
from loss_cases import batch
from st_plugins.bit_planes import BitPlanes
from st_plugins.errors import ShapeError, SizeError
from st_plugins.modules import ResidualBinarization


def codes_of(module, embeddings, **options):
    with torch.no_grad():
        return module({"sentence_embedding": embeddings}, **options)["sentence_embedding"]


def random_module(width=5, code_dimension=7, bits=3):
    torch.manual_seed(3)
    module = ResidualBinarization(width, code_dimension, bits=bits)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn_like(parameter))
    return module


def unrotated(width, bits):
    module = ResidualBinarization(width, bits=bits)
    with torch.no_grad():
        for part in (module.binarize, *module.reconstruct, *module.residual):
            part.weight.copy_(torch.eye(width))
    return module


@pytest.fixture
def rounding(plain):
    """A model whose vectors are codes of two bits."""
    return SentenceTransformer(modules=[*plain.children(), ResidualBinarization(16, bits=2)], device="cpu").eval()


def test_it_is_the_formula_of_the_paper():
    module, embeddings = random_module(), torch.randn(6, 5)
    parts = [(part.weight.tolist(), part.bias.tolist()) for part in (*module.reconstruct, *module.residual)]
    steps = list(zip(parts[:2], parts[2:], strict=True))
    for row, found in zip(embeddings.tolist(), codes_of(module, embeddings).tolist(), strict=True):
        expected = reference.residual_binarization(
            row, (module.binarize.weight.tolist(), module.binarize.bias.tolist()), steps
        )
        assert found == pytest.approx(reference.truncate(expected, 7), abs=1e-6)


def test_two_bits_by_hand():
    # Unit: .6 -.8. Signs at length one: .707 -.707; left over: -.107 -.093. So 1 - 1/2, -1 - 1/2.
    assert codes_of(unrotated(2, 2), torch.tensor([[3.0, -4.0]])).tolist() == [
        pytest.approx([0.5 / 2.5**0.5, -1.5 / 2.5**0.5])
    ]


def test_the_sign_of_zero_is_plus():
    assert codes_of(unrotated(2, 1), torch.tensor([[0.0, -1.0]])).tolist() == [pytest.approx([0.5**0.5, -(0.5**0.5)])]


@pytest.mark.parametrize(("bits", "alphabet"), [(1, {1}), (2, {1, 3}), (3, {1, 3, 5, 7})])
def test_coordinates_are_odd_multiples_of_the_last_power(bits, alphabet):
    module = ResidualBinarization(64, bits=bits)
    unit = torch.nn.functional.normalize(torch.randn(50, 64), dim=-1)
    with torch.no_grad():
        multiples = module._codes(unit) * 2 ** (bits - 1)
    assert set(multiples.abs().unique().tolist()) == alphabet


def test_one_bit_without_rotation_is_what_the_host_calls_binary():
    embeddings = torch.randn(20, 32)
    found = BitPlanes.of(codes_of(unrotated(32, 1), embeddings), bits=1)
    assert np.array_equal(found.planes[:, 0], quantize_embeddings(embeddings.numpy(), "ubinary"))


# Of normal coordinates, with levels 1/2 and 3/2 and the threshold 1: (phi(0) - phi(1) + 3 phi(1)) / sqrt(E level^2).
@pytest.mark.parametrize(("bits", "cosine"), [(1, 0.7979), (2, 0.9387)])
def test_the_rotation_keeps_the_cosine_that_theory_says(bits, cosine):
    embeddings = torch.zeros(8, 512)
    embeddings[range(8), range(8)] = 1.0  # the worst vectors to round: one coordinate
    module = ResidualBinarization(512, bits=bits)
    rotated = torch.nn.functional.linear(embeddings, module.binarize.weight).detach()
    found = torch.nn.functional.cosine_similarity(codes_of(module, embeddings), rotated)
    assert float(found.mean()) == pytest.approx(cosine, abs=5e-3)


@pytest.mark.parametrize("code_dimension", [128, 256])
def test_every_bit_brings_cosines_nearer(code_dimension):
    embeddings = torch.nn.functional.normalize(torch.randn(40, 256), dim=-1)
    exact, errors = embeddings @ embeddings.T, []
    for bits in (1, 2, 3):
        codes = codes_of(ResidualBinarization(256, code_dimension, bits=bits), embeddings)
        assert codes.norm(dim=-1).tolist() == pytest.approx([1.0] * 40, abs=1e-6)
        errors.append(float((codes @ codes.T - exact).square().mean()))
    assert errors[0] > errors[1] > errors[2]


def test_the_gradient_of_a_sign_is_one_inside_of_its_window():
    module = unrotated(4, 1)
    embeddings = torch.nn.functional.normalize(torch.tensor([[0.9, 0.1, -0.2, 0.3]]), dim=-1)
    module._codes(embeddings).backward(torch.ones(1, 4))
    # Half of the length-one coordinate .9 is outside of [-1, 1] / sqrt(4); inside, sqrt(4) = 2 each, times the input.
    expected = torch.tensor([[0.0], [2.0], [2.0], [2.0]]) * embeddings
    assert torch.allclose(module.binarize.weight.grad, expected, atol=1e-6)


def test_gradients_reach_every_parameter_and_the_embeddings():
    module = random_module()
    embeddings = torch.randn(6, 5, requires_grad=True)
    module({"sentence_embedding": embeddings})["sentence_embedding"].square()[:, 0].sum().backward()
    assert embeddings.grad.abs().max() > 0
    assert all(parameter.grad.abs().max() > 0 for parameter in module.parameters())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_dtype_is_kept(dtype):
    embeddings = torch.randn(4, 16).to(dtype)
    found = codes_of(ResidualBinarization(16, bits=2), embeddings)
    assert found.dtype == dtype
    assert torch.allclose(found.float(), codes_of(ResidualBinarization(16, bits=2), embeddings.float()), atol=1e-2)


def test_a_model_gives_codes_that_pack_and_do_not_depend_on_the_batch(rounding, texts):
    vectors = rounding.encode(texts)
    codes = BitPlanes.of(vectors, bits=2)
    assert codes.nbytes == len(texts) * 4
    assert codes.scores(codes) == pytest.approx(rounding.similarity(vectors, vectors).numpy(), abs=1e-6)
    for text, vector in zip(texts, vectors, strict=True):
        assert rounding.encode(text) == pytest.approx(vector, abs=1e-6)
    assert rounding.get_embedding_dimension() == 16


def test_queries_may_stay_floats(plain, texts):
    module = ResidualBinarization(16, 24, bits=2, float_queries=True)
    model = SentenceTransformer(modules=[*plain.children(), module], device="cpu").eval()
    rotated = torch.nn.functional.linear(torch.tensor(plain.encode(texts)), module.binarize.weight)
    expected = torch.nn.functional.normalize(rotated, dim=-1).detach().numpy()
    assert model.encode_query(texts) == pytest.approx(expected, abs=1e-6)
    index = BitPlanes.of(model.encode_document(texts), bits=2)
    assert np.array_equal(model.encode(texts), model.encode_document(texts))
    scores, rows = index.search(model.encode_query(texts), k=1)
    exact = model.encode_query(texts) @ model.encode_document(texts).T
    assert rows[:, 0].tolist() == exact.argmax(axis=1).tolist()
    assert scores[:, 0] == pytest.approx(exact.max(axis=1), abs=1e-6)


def test_saved_and_loaded(rounding, texts, tmp_path):
    rounding.save_pretrained(str(tmp_path / "model"))
    again = st_plugins.load(tmp_path / "model", device="cpu")
    assert np.array_equal(again.encode(texts), rounding.encode(texts))
    assert st_plugins.fingerprint(again) == st_plugins.fingerprint(rounding)


def test_a_loss_of_the_host_trains_it(rounding):
    rounding.train()
    MultipleNegativesRankingLoss(rounding)(batch(rounding), None).backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in rounding[3].parameters())


@pytest.mark.parametrize(("arguments", "options", "text"), [
    ((0,), {}, "positive integer embedding_dimension, got 0"), ((4, 0), {}, "positive integer code_dimension, got 0"),
    ((4,), {"bits": 0}, "positive integer bits, got 0"), ((4,), {"bits": 9}, "bits from 1 to 8, got 9"),
])  # fmt: skip
def test_sizes_that_cannot_be_are_refused(arguments, options, text):
    with pytest.raises(SizeError, match=text):
        ResidualBinarization(*arguments, **options)


def test_embeddings_of_another_width_are_refused():
    with pytest.raises(ShapeError, match=r"shape \(batch, 4\), got \(2, 3\). Build it with embedding_dimension="):
        ResidualBinarization(4)({"sentence_embedding": torch.ones(2, 3)})
