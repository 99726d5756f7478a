import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

import st_plugins
from loss_cases import batch
from st_plugins.errors import ShapeError, SizeError, UnsupportedModelError
from st_plugins.modules import LayerAlignment


def random_alignment(width=16, layers=(1, 3)):
    torch.manual_seed(2)
    alignment = LayerAlignment(width, layers)
    with torch.no_grad():
        alignment.weight.copy_(torch.randn_like(alignment.weight))
        alignment.bias.copy_(torch.randn_like(alignment.bias))
    return alignment


@pytest.fixture
def aligned(plain):
    """An elastic model with random maps at layers 1 and 3."""
    model = st_plugins.elastic(plain, sizes=[(1, 16), (2, 16), (3, 16)])
    modules = list(model.children())
    return SentenceTransformer(modules=[*modules[:-1], random_alignment(), modules[-1]], device="cpu").eval()


def by_hand(alignment, embedding, layer):
    """One text, number by number."""
    if layer not in alignment.layers:
        return embedding
    weight, bias = (part.tolist() for part in alignment.map_of(layer))
    pairs = zip(weight, bias, strict=True)
    length = sum(x * x for x in embedding) ** 0.5
    mapped = [sum(w * x / length for w, x in zip(row, embedding, strict=True)) + b for row, b in pairs]
    length = sum(x * x for x in mapped) ** 0.5
    return [x / length for x in mapped]


def test_each_row_is_mapped_by_the_layer_it_left_at():
    alignment = random_alignment(width=3)
    embeddings, layers = torch.randn(4, 3), torch.tensor([3, 4, 1, 2])
    features = alignment({"sentence_embedding": embeddings, "exit_layer": layers})
    for row, before, layer in zip(features["sentence_embedding"], embeddings, layers.tolist(), strict=True):
        assert row.tolist() == pytest.approx(by_hand(alignment, before.tolist(), layer), abs=1e-6)
    assert torch.equal(features["sentence_embedding"][[1, 3]], embeddings[[1, 3]])


def test_it_starts_as_the_identity_on_unit_vectors():
    unit = torch.nn.functional.normalize(torch.randn(5, 8), dim=-1)
    features = {"sentence_embedding": unit, "exit_layer": torch.tensor([1, 2, 3, 2, 1])}
    assert torch.allclose(LayerAlignment(8, [1, 2])(features)["sentence_embedding"], unit, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_embeddings_keep_their_dtype(dtype):
    alignment, embeddings = random_alignment(), torch.randn(2, 16).to(dtype)
    exit_layer = torch.tensor([1, 3])
    found = alignment({"sentence_embedding": embeddings, "exit_layer": exit_layer})["sentence_embedding"]
    expected = alignment({"sentence_embedding": embeddings.float(), "exit_layer": exit_layer})["sentence_embedding"]
    assert found.dtype == dtype
    assert torch.allclose(found.float(), expected, atol=1e-2)


def test_in_a_model_layers_exits_and_batches_agree(aligned, texts):
    full = st_plugins.bake(aligned)
    assert torch.equal(torch.tensor(aligned.encode(texts)), torch.tensor(full.encode(texts)))
    alignment = aligned[3]
    plain = SentenceTransformer(modules=[module for module in aligned if module is not alignment], device="cpu")
    for layer in (1, 2, 3):
        found = aligned.encode(texts, layer=layer)
        for row, before, text in zip(found, plain.encode(texts, layer=layer), texts, strict=True):
            assert row.tolist() == pytest.approx(by_hand(alignment, before.tolist(), layer), abs=1e-5)
            assert row == pytest.approx(aligned.encode(text, layer=layer), abs=1e-5)
    leaving = aligned.encode(texts, exit=-1.0)  # all at the second layer they can be compared at, which has no map
    assert leaving == pytest.approx(aligned.encode(texts, layer=2), abs=1e-5)


def test_a_loss_over_layers_trains_the_maps_it_reads(aligned):
    aligned.train()
    loss = st_plugins.losses.ElasticLoss(aligned, MultipleNegativesRankingLoss(aligned), sizes=[(1, 8), (2, 16)])
    loss(batch(aligned), None).backward()
    gradient = aligned[3].weight.grad
    assert gradient[0].abs().max() > 0
    assert gradient[1].abs().max() == 0  # layer 3 was not asked for


def test_gradients_equal_finite_differences():
    alignment = random_alignment(width=3).double()
    exit_layer = torch.tensor([1, 3, 4])

    def value(embeddings, weight, bias):
        replaced = {"weight": weight, "bias": bias}
        features = {"sentence_embedding": embeddings, "exit_layer": exit_layer}
        return torch.func.functional_call(alignment, replaced, (features,))["sentence_embedding"]

    embeddings = torch.randn(3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(value, (embeddings, alignment.weight, alignment.bias))


@pytest.mark.parametrize(("layer", "dim"), [(1, None), (1, 8), (2, 8), (3, None), (4, 8), (None, None)])
def test_a_baked_size_has_its_map_as_a_dense_layer(aligned, texts, tmp_path, layer, dim):
    baked = st_plugins.bake(aligned, layer=layer, dim=dim)
    baked.save_pretrained(str(tmp_path / "baked"))
    assert "st_plugins" not in (tmp_path / "baked" / "modules.json").read_text()
    expected = aligned.encode(texts, layer=layer, truncate_dim=dim, allow_untrained=True)
    again = SentenceTransformer(str(tmp_path / "baked"), device="cpu")
    for one in (baked, again):
        assert one.encode(texts) == pytest.approx(expected, abs=1e-5)
    assert any(type(module).__name__ == "Dense" for module in baked) == (layer in (1, 3) or dim is not None)


def test_saved_and_loaded(aligned, texts, tmp_path):
    aligned.save_pretrained(str(tmp_path / "model"))
    for again in (
        st_plugins.load(tmp_path / "model", device="cpu"),
        SentenceTransformer(str(tmp_path / "model"), trust_remote_code=True, device="cpu"),
    ):
        assert torch.equal(torch.tensor(again.encode(texts, layer=1)), torch.tensor(aligned.encode(texts, layer=1)))


def test_only_the_full_depth_keeps_its_fingerprint(aligned):
    without = SentenceTransformer(modules=[m for m in aligned if not isinstance(m, LayerAlignment)], device="cpu")
    assert st_plugins.fingerprint(aligned) == st_plugins.fingerprint(without)
    assert st_plugins.fingerprint(aligned, layer=4) == st_plugins.fingerprint(without)
    for size in ({"layer": 1}, {"layer": 2}, {"exit": 0.9}):
        assert st_plugins.fingerprint(aligned, **size) != st_plugins.fingerprint(without, **size)


@pytest.mark.parametrize(("arguments", "text"), [
    ((0, [1]), "positive integer embedding_dimension, got 0"), ((4, []), r"at least one layer, .* got \[\]"),
    ((4, [2, 1]), r"ascending order, got \[2, 1\]"), ((4, [1, 1]), r"ascending order, got \[1, 1\]"),
    ((4, [0]), "positive integer layer, got 0"), ((4, [True]), "positive integer layer, got True"),
])  # fmt: skip
def test_sizes_that_cannot_be_are_refused(arguments, text):
    with pytest.raises(SizeError, match=text):
        LayerAlignment(*arguments)


def test_embeddings_it_cannot_place_are_refused(plain, texts):
    alignment = LayerAlignment(4, [1])
    with pytest.raises(UnsupportedModelError, match="must know the layer of every text, and got no exit_layer"):
        alignment({"sentence_embedding": torch.ones(1, 4)})
    with pytest.raises(ShapeError, match=r"shape \(batch, 4\), got \(1, 3\). Build it with"):
        alignment({"sentence_embedding": torch.ones(1, 3), "exit_layer": torch.ones(1)})
    with pytest.raises(UnsupportedModelError, match=r"st_plugins.align_layers\(st_plugins.elastic"):
        SentenceTransformer(modules=[*plain.children(), LayerAlignment(16, [1])], device="cpu").encode(texts)
