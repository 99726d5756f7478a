"""Models that end in a rounding: graphs give the codes of torch, and only what lies at an edge may fall elsewhere."""

import json

import numpy as np
import onnxruntime
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Router

import st_plugins
from st_plugins.errors import ParityError, SizeError, UnsupportedModelError
from st_plugins.modules import ProductQuantization, ResidualBinarization
from st_plugins_export import OnnxEncoder, check_parity, export_onnx
from st_plugins_export.rounding import Unrounding

WIDTH = 32


def centroids(float_queries=False):
    module = ProductQuantization(WIDTH, parts=8, centroids=16, float_queries=float_queries)
    torch.nn.init.normal_(module.codebooks, std=0.2, generator=torch.Generator().manual_seed(3))
    return module


def bits(count, width=None, float_queries=False):
    module = ResidualBinarization(WIDTH, width, bits=count, float_queries=float_queries)
    for parameter in module.parameters():  # no rotations, and no zeros, any more
        parameter.data += 0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3))
    return module


ROUNDINGS = {
    "centroids": centroids,
    "one bit": lambda **options: bits(1, **options),
    "four bits, wider": lambda **options: bits(4, 48, **options),
}


@pytest.fixture
def model(request, build):
    return build(behind=[ROUNDINGS[request.param]()], layers=1).eval()


every = pytest.mark.parametrize("model", ROUNDINGS, indirect=True)
first_fast = pytest.mark.parametrize(
    "model", ["centroids", *(pytest.param(kind, marks=pytest.mark.slow) for kind in list(ROUNDINGS)[1:])], indirect=True
)


@first_fast
def test_a_graph_gives_the_codes_of_torch(model, tmp_path, texts):
    report = export_onnx(model, tmp_path / "out", show_progress=False)
    assert report.max_difference <= 1e-5
    assert report.sizes[0].borderline == 0
    encoder = OnnxEncoder(tmp_path / "out")
    for texts_or_one in (texts, texts[4:5]):
        np.testing.assert_allclose(encoder.encode(texts_or_one), model.encode(texts_or_one), atol=1e-6, rtol=0)
    assert len(np.unique(encoder.encode(texts).round(5))) < WIDTH * len(texts) / 2  # they are rounded
    session = onnxruntime.InferenceSession(tmp_path / "out" / "onnx" / "model.onnx")  # and by nothing of ours
    assert [output.name for output in session.get_outputs()] == ["last_hidden_state", "sentence_embedding"]
    features = model.preprocess(texts[:2])
    feeds = {given.name: features[given.name].numpy() for given in session.get_inputs()}
    found = session.run(["sentence_embedding"], feeds)[0]
    np.testing.assert_allclose(found, model.encode(texts[:2]), atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", ["centroids", pytest.param("four bits, wider", marks=pytest.mark.slow)])
def test_float_queries_have_a_graph_of_their_own(kind, build, tmp_path, texts):
    model = build(behind=[ROUNDINGS[kind](float_queries=True)], prompts={"query": "find: "}, layers=1).eval()
    report = export_onnx(model, tmp_path / "out", show_progress=False)
    assert [size.file for size in report.sizes] == ["query/onnx/model.onnx", "document/onnx/model.onnx"]
    encoder = OnnxEncoder(tmp_path / "out")
    for name in ("encode", "encode_query", "encode_document"):
        found, expected = (getattr(one, name)(texts) for one in (encoder, model))
        np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)
    assert encoder.fingerprint == st_plugins.fingerprint(model)
    modules = json.loads((tmp_path / "out" / "query" / "modules.json").read_text())
    assert all(entry["type"].startswith("sentence_transformers.") for entry in modules)
    assert check_parity(model, tmp_path / "out").max_difference <= 1e-5
    assert model[-1].float_queries


@pytest.mark.slow
@every
def test_the_rounding_stays_float32_in_other_precisions(model, tmp_path, texts):
    precisions = ["fp16", "int8", "int8-blockwise"]
    report = export_onnx(
        model, tmp_path / "out", precisions=precisions, min_cosine=dict.fromkeys(precisions, 0.99), show_progress=False
    )
    for precision in precisions:
        encoder = OnnxEncoder(tmp_path / "out", precision=precision)
        _, _, moved = Unrounding(model).explain(Unrounding(model).encode(texts), encoder.encode(texts))
        assert moved <= len(texts)  # and it is no error: they are codes of this module, to float32
        alone = np.concatenate([encoder.encode([text]) for text in texts])
        assert np.allclose(alone, encoder.encode(texts), atol=1e-6) or precision == "fp16"
    assert all(size.cosine_min > 0.99 for size in report.sizes)


@first_fast
def test_layers_can_be_left_out_and_dims_cannot(model, tmp_path, texts):
    elastic = st_plugins.elastic(model, sizes=[(1, model.get_embedding_dimension())])
    width = model.get_embedding_dimension()
    export_onnx(elastic, tmp_path / "out", sizes=[(1, width)], show_progress=False)
    found = OnnxEncoder(tmp_path / "out").encode(texts, layer=1)
    np.testing.assert_allclose(found, elastic.encode(texts, layer=1), atol=1e-6, rtol=0)
    with pytest.raises(SizeError, match=f"rounds all {width} dims together, so none can be cut off"):
        export_onnx(elastic, tmp_path / "cut", sizes=[(1, 16)], show_progress=False)
    with pytest.raises(UnsupportedModelError, match="in which texts leave early must not end in a rounding, got"):
        export_onnx(elastic, tmp_path / "cut", layer_per_text=True, show_progress=False)


def test_what_is_no_rounding_at_the_end_is_refused(build, tmp_path):
    def refused(model, message):
        with pytest.raises(UnsupportedModelError, match=message):
            export_onnx(model, tmp_path / "out", show_progress=False)

    refused(build(behind=[centroids(), Normalize()]), "ProductQuantization must be the last module")
    cut = build(behind=[bits(1)])
    cut.truncate_dim = 8
    refused(cut, "ResidualBinarization rounds all dims together, so its vectors must not be cut, .* to 8")
    elastic = st_plugins.elastic(build(behind=[bits(1)]))
    elastic[-1].dim = 8
    refused(elastic, "must not be cut, and the model cuts them to 8")
    plain = build()
    router = Router.for_query_document(list(plain.children()), list(plain.children()))
    both = SentenceTransformer(modules=[router, centroids(float_queries=True)], device="cpu")
    refused(both, "Behind a Router ProductQuantization must have float_queries=False")


def explained(model, embeddings, rounded):
    before, after, moved = Unrounding(model).explain(embeddings, rounded)
    return float(np.abs(after - before).max()), moved


@every
def test_what_torch_gave_needs_no_explanation(model, texts):
    embeddings = Unrounding(model).encode(texts)
    difference, moved = explained(model, embeddings, model.encode(texts))
    assert difference < 1e-6
    assert moved == 0


def near_an_edge(model, embeddings, noise):
    """Rounded vectors of embeddings that were moved a little, and of which some decide otherwise for it."""
    generator = torch.Generator().manual_seed(0)
    moved = torch.from_numpy(embeddings) + noise * torch.randn(embeddings.shape, generator=generator)
    with torch.no_grad():
        return model[-1]({"sentence_embedding": moved})["sentence_embedding"].numpy()


@every
def test_the_move_is_no_larger_than_the_noise_that_decided(model):
    """Of 400 rows some lie near an edge; for what they are rounded to, a move as large as the noise is enough."""
    embeddings = torch.nn.functional.normalize(torch.randn(400, WIDTH), dim=-1).numpy()
    rounded = near_an_edge(model, embeddings, 1e-3)
    exact = near_an_edge(model, embeddings, 0)
    otherwise = int((np.abs(rounded - exact).max(axis=1) > 1e-3).sum())
    difference, moved = explained(model, embeddings, rounded)
    assert moved == otherwise > 3
    assert 0 < difference < 5e-3
    assert np.abs(rounded - exact).max() > 0.05  # as plain vectors they are far apart


@every
def test_a_decision_far_from_an_edge_is_a_difference(model):
    embeddings = torch.nn.functional.normalize(torch.randn(3, WIDTH), dim=-1).numpy()
    difference, _ = explained(model, embeddings, near_an_edge(model, embeddings[::-1].copy(), 0))
    assert difference > 0.05


def test_a_centroid_that_is_none_is_a_difference(build):
    model = build(behind=[centroids()], layers=1).eval()
    embeddings = torch.nn.functional.normalize(torch.randn(3, WIDTH), dim=-1).numpy()
    rounded = near_an_edge(model, embeddings, 0)
    assert explained(model, embeddings, rounded + 1e-3)[0] == pytest.approx(1e-3, rel=1e-3)


def test_what_are_no_bits_is_an_error(build):
    model = build(behind=[bits(2)], layers=1).eval()
    embeddings = torch.nn.functional.normalize(torch.randn(3, WIDTH), dim=-1).numpy()
    with pytest.raises(ParityError, match="A graph that rounds must give codes. Every vector must be a code"):
        explained(model, embeddings, embeddings)


def test_the_smallest_move_to_a_centroid_is_that_to_the_edge(build):
    """One part, two centroids on a line: the edge is half-way."""
    module = ProductQuantization(2, parts=1, centroids=2, float_queries=False)
    module.rotate.weight.data = torch.eye(2)
    module.codebooks.data = torch.tensor([[[0.0, 0.0], [1.0, 0.0]]])
    model = SentenceTransformer(modules=[Normalize(), module], device="cpu")
    found = Unrounding(model).explain(np.array([[0.6, 0.8]]), np.array([[0.0, 0.0]]))
    np.testing.assert_allclose(found[0], [[0.6, 0.8]])
    np.testing.assert_allclose(found[1], [[0.5, 0.8]])
    assert found[2] == 1
