import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize

import st_plugins
from conftest import MANY_TEXTS as TEXTS
from conftest import WORDS
from families import but_slow
from st_plugins.errors import InputError, NonFiniteError, ShapeError
from st_plugins.index_upgrade import METHODS, _fitted, adapt_to_index
from st_plugins.linear_maps import RIDGES, Moments
from st_plugins.modules import Truncation


def turned(width=16, seed=0):
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((width, width)))[0]


def old_model(plain, width=16):
    """Another model of the same family: other last layers, turned, of another width."""
    model = st_plugins.bake(st_plugins.elastic(plain), layer=3)
    dense = Dense(16, width, bias=False, activation_function=torch.nn.Identity())
    torch.manual_seed(5)
    torch.nn.init.orthogonal_(dense.linear.weight)
    return SentenceTransformer(modules=[*model.children(), dense, Normalize()], device="cpu").eval()


def test_a_rotation_between_the_models_is_found(plain):
    old = plain.encode(TEXTS).astype(np.float64) @ turned()
    adapted = adapt_to_index(plain, old, TEXTS, method="procrustes")
    assert adapted[3].linear.weight.detach().numpy() == pytest.approx(turned().T, abs=1e-5)
    assert adapted[3].linear.bias is None
    unseen = ["the red tree was fast", "slow"]
    assert adapted.encode(unseen) == pytest.approx(plain.encode(unseen) @ turned(), abs=1e-5)


def test_the_same_model_needs_no_turning(plain):
    adapted = adapt_to_index(plain, plain, TEXTS, method="procrustes")
    assert adapted[3].linear.weight.detach().numpy() == pytest.approx(np.eye(16), abs=1e-5)
    for method in ("ridge", "mlp"):
        adapted = adapt_to_index(plain, plain, TEXTS, method=method)
        assert (adapted.encode(TEXTS) * plain.encode(TEXTS)).sum(1).min() > 0.999


@pytest.mark.parametrize("width", [16, 24])
def test_procrustes_keeps_the_cosines_between_new_vectors(plain, texts, width):
    new = plain.encode(texts)
    found = adapt_to_index(plain, old_model(plain, width), TEXTS, method="procrustes").encode(texts)
    assert found.shape == (5, width)
    assert found @ found.T == pytest.approx(new @ new.T, abs=1e-5)


def test_ridge_is_one_of_the_five_least_squares_solutions(plain):
    old = old_model(plain, 12)
    adapted = adapt_to_index(plain, old, TEXTS)
    x, y = plain.encode(TEXTS).astype(np.float64), old.encode(TEXTS).astype(np.float64)
    weight, bias = (part.detach().numpy() for part in (adapted[3].linear.weight, adapted[3].linear.bias))
    moments = Moments.of(torch.tensor(x)[:, None], torch.tensor(y)).map(0)  # whose solve has a test of its own
    candidates = [tuple(part.numpy() for part in moments.solve(ridge)) for ridge in RIDGES]
    distances = [max(abs(w - weight).max(), abs(b - bias).max()) for w, b in candidates]
    assert min(distances) < 1e-4 < sorted(distances)[1]


@pytest.mark.parametrize("width", but_slow([8, 16, 24], 16))
@pytest.mark.parametrize("method", METHODS)
def test_adapted_vectors_come_near_the_old_ones_of_texts_not_seen(plain, method, width):
    old = old_model(plain, width)
    unseen = [f"{a} was in {b}" for a in WORDS[:5] for b in WORDS[5:10]]
    adapted = adapt_to_index(plain, old, TEXTS, method=method)
    found = adapted.encode(unseen)
    assert adapted.get_embedding_dimension() == width
    assert np.linalg.norm(found, axis=1) == pytest.approx(1, abs=1e-5)
    matched = (found * old.encode(unseen)).sum(1).mean()
    shuffled = (found * np.roll(old.encode(unseen), 7, axis=0)).sum(1).mean()
    assert 1 - matched < 0.5 * (1 - shuffled)


def test_a_bent_map_needs_the_network():
    x = torch.nn.functional.normalize(torch.randn(800, 6, dtype=torch.float64), dim=1)
    y = torch.nn.functional.normalize(x.abs(), dim=1)
    missing = {}
    for method in ("ridge", "mlp"):
        features = {"sentence_embedding": x[400:].float()}
        for module in _fitted(x[:400], y[:400], method):
            features = module.requires_grad_(False)(features)
        missing[method] = 1 - float((features["sentence_embedding"] * y[400:]).sum(1).mean())
    assert missing["mlp"] < 0.7 * missing["ridge"]


def test_its_random_numbers_are_its_own(plain):
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    one, other = (adapt_to_index(plain, np.eye(20, 16) + 1, TEXTS[:20], method="mlp") for _ in range(2))
    assert torch.equal(torch.rand(2), expected)
    assert torch.equal(one[3].contract.weight, other[3].contract.weight)


def test_order_batches_and_repetitions_do_not_matter(plain):
    old = old_model(plain)
    maps = [
        adapt_to_index(plain, old, texts, queries=queries, batch_size=size)[3].linear.weight
        for texts, queries, size in (
            (TEXTS, TEXTS[:9], 64), (TEXTS[::-1], TEXTS[:9], 7), (TEXTS * 2, TEXTS[:9][::-1], 64)
        )
    ]  # fmt: skip
    assert all(torch.allclose(weight, maps[0], atol=1e-4) for weight in maps)


def test_queries_and_documents_are_embedded_as_such_on_both_sides(plain):
    old = old_model(plain)
    plain.prompts = {"query": "the red ", "document": "the blue "}
    old.prompts = {"query": "slow ", "document": "fast "}
    adapted = adapt_to_index(plain, old, TEXTS[:60], queries=TEXTS[30:])
    plain.prompts = {"query": "", "document": ""}
    by_hand = adapt_to_index(
        plain,
        np.vstack(
            [
                old.encode([f"fast {t}" for t in TEXTS[:60]], prompt=""),
                old.encode([f"slow {t}" for t in TEXTS[30:]], prompt=""),
            ]
        ),
        [f"the blue {text}" for text in TEXTS[:60]],
        queries=[f"the red {text}" for text in TEXTS[30:]],
    )
    assert torch.allclose(adapted[3].linear.weight, by_hand[3].linear.weight, atol=1e-4)
    assert adapted.prompts == {"query": "the red ", "document": "the blue "}


def test_old_vectors_of_any_length_count_by_their_direction(plain):
    old = old_model(plain).encode(TEXTS)
    lengths = np.linspace(0.1, 9, len(old))[:, None]
    one, other = (adapt_to_index(plain, vectors, TEXTS)[3].linear.weight for vectors in (old, old * lengths))
    assert torch.allclose(one, other, atol=1e-5)


def test_the_new_model_stays_as_it_is_and_shares_its_weights(plain, texts):
    before = plain.encode(texts)
    plain.train()
    adapted = adapt_to_index(plain, old_model(plain), TEXTS)
    assert plain.training
    assert adapted.training
    assert adapted[0] is plain[0]
    plain.eval()
    assert np.array_equal(plain.encode(texts), before)
    assert len(list(plain.children())) == 3


def test_a_default_cut_of_the_new_model_is_not_what_is_mapped(plain, texts):
    old = old_model(plain)
    expected = adapt_to_index(plain, old, TEXTS).encode(texts)
    plain.truncate_dim = 4
    found = adapt_to_index(plain, old, TEXTS)
    assert found.encode(texts) == pytest.approx(expected, abs=1e-6)
    assert plain.truncate_dim == 4


def test_of_an_elastic_model_every_layer_goes_through_it_and_it_bakes(model, plain, texts, tmp_path):
    old = old_model(plain)
    adapted = adapt_to_index(st_plugins.align_layers(model, TEXTS), old, TEXTS)
    assert isinstance(list(adapted.children())[-1], Truncation)
    assert adapted.encode(texts) == pytest.approx(adapt_to_index(plain, old, TEXTS).encode(texts), abs=1e-5)
    shallow = adapted.encode(texts, layer=2)
    assert (shallow * old.encode(texts)).sum(1).mean() > 0.7
    assert np.linalg.norm(adapted.encode(texts, truncate_dim=8, allow_untrained=True), axis=1) == pytest.approx(1)
    baked = st_plugins.bake(adapted, layer=2)
    baked.save_pretrained(str(tmp_path / "baked"))
    assert "st_plugins" not in (tmp_path / "baked" / "modules.json").read_text()
    again = SentenceTransformer(str(tmp_path / "baked"), device="cpu")
    assert again.encode(texts) == pytest.approx(shallow, abs=1e-5)


def test_a_truncation_to_one_dim_is_part_of_the_new_model(plain, texts):
    cut = SentenceTransformer(modules=[*plain.children(), Truncation(8)], device="cpu").eval()
    adapted = adapt_to_index(cut, old_model(plain), TEXTS)
    assert [type(module).__name__ for module in adapted][-3:] == ["Truncation", "Dense", "Normalize"]
    assert adapted.encode(texts).shape == (5, 16)


@pytest.mark.parametrize("method", METHODS)
def test_saved_and_loaded(plain, texts, tmp_path, method):
    adapted = adapt_to_index(plain, old_model(plain), TEXTS, method=method)
    adapted.save_pretrained(str(tmp_path / "adapted"))
    again = st_plugins.load(tmp_path / "adapted", device="cpu")
    assert again.encode(texts) == pytest.approx(adapted.encode(texts), abs=1e-6)
    assert st_plugins.fingerprint(again) == st_plugins.fingerprint(adapted) != st_plugins.fingerprint(plain)
    if method != "mlp":
        assert "st_plugins" not in (tmp_path / "adapted" / "modules.json").read_text()


def test_each_module_keeps_its_mode(plain):
    old = old_model(plain).encode(TEXTS)
    plain.train()
    plain[0].eval()
    adapt_to_index(plain, old, TEXTS)
    assert [module.training for module in (plain, *plain)] == [True, False, True, True]


def test_vectors_that_are_not_finite_are_refused(plain):
    old = old_model(plain).encode(TEXTS)
    old[3, 2] = np.nan
    with pytest.raises(NonFiniteError, match="holds NaN, infinity or an overflow at row 3"):
        adapt_to_index(plain, old, TEXTS)


def test_in_half_precision_the_map_has_the_dtype_of_the_model(plain, texts):
    expected = adapt_to_index(plain, old_model(plain), TEXTS).encode(texts)
    half = adapt_to_index(plain.bfloat16(), torch.tensor(old_model(plain.float()).encode(TEXTS)), TEXTS)
    half.bfloat16()
    assert half[3].linear.weight.dtype == torch.bfloat16
    assert (half.encode(texts, convert_to_tensor=True).float().numpy() * expected).sum(1).min() > 0.98


def test_bad_input_is_refused(plain):
    old = old_model(plain)
    with pytest.raises(InputError, match="method must be one of procrustes, ridge, mlp, got 'best'"):
        adapt_to_index(plain, old, TEXTS, method="best")
    for options in ({"texts": "a text"}, {"texts": [*TEXTS, 3]}, {"texts": TEXTS, "queries": "a text"}):
        with pytest.raises(InputError, match="must be a sequence of texts, got"):
            adapt_to_index(plain, old, **options)
    for texts in ([], TEXTS[:9], TEXTS[:9] * 3):
        with pytest.raises(InputError, match="at least 10 different texts, got"):
            adapt_to_index(plain, old, texts)
    with pytest.raises(InputError, match="narrower vectors have coordinates, 16, got 12"):
        adapt_to_index(plain, old, TEXTS[:12], method="procrustes")
    for vectors in (np.ones((11, 16)), np.ones(12)):
        with pytest.raises(ShapeError, match="one vector for each of 12 texts and then of 0 queries, got an array"):
            adapt_to_index(plain, vectors, TEXTS[:12])
