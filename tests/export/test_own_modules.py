"""Modules of this project inside the graph: poolings with weights, decoders without their causal mask."""

import json

import numpy as np
import onnx
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize

import masking_cases
import st_plugins
from conftest import WORDS
from families import but_slow
from st_plugins.errors import ExportError
from st_plugins.exits import ExitPolicy
from st_plugins.modules import (
    AttentionPooling,
    DebiasProjection,
    LatentAttentionPooling,
    MultiLayerPooling,
    RelativeRepresentation,
    ResidualMap,
    RobustNormalizer,
)
from st_plugins_export import OnnxEncoder, export_onnx

POOLINGS = {
    "low-rank": lambda **options: AttentionPooling(32, starts_as_mean=False, **options),
    "latent": lambda **options: LatentAttentionPooling(32, num_latents=5, num_heads=2, **options),
    "folded": lambda **options: LatentAttentionPooling(32, num_latents=5, num_heads=2, **options).fold(),
    "multi-layer": lambda **options: MultiLayerPooling(32, num_layers=4, num_queries=3, **options),
    "multi-layer, last token": lambda **options: MultiLayerPooling(
        32, num_layers=4, num_queries=3, layer_pooling="lasttoken", **options
    ),
}
LONG = ["the red dog was under the blue tree and the cat was in it " * 4, "cat", ""]


def build(folder, pooling, **options):
    plain = masking_cases.build(folder)
    plain[0].model.config.output_hidden_states = pooling.startswith("multi-layer")
    torch.manual_seed(1)
    modules = [plain[0], POOLINGS[pooling](**options), Normalize()]
    return SentenceTransformer(modules=modules, device="cpu").eval()


def assert_same_vectors(model, folder, texts, **options):
    expected, encoder = model.encode(texts, **options), OnnxEncoder(folder)
    assert np.allclose(encoder.encode(texts, **options), expected, atol=1e-5)
    one_by_one = [encoder.encode([text], **options)[0] for text in texts]
    assert np.allclose(one_by_one, expected, atol=1e-5)


@pytest.fixture(scope="module", params=but_slow(POOLINGS, "low-rank", "latent", "multi-layer"))
def pooled(request, tmp_path_factory):
    """A model with each of the poolings, and the folder of its export. Read only."""
    folder = tmp_path_factory.mktemp("pooled")
    model = build(folder / "model", request.param)
    export_onnx(model, folder / "out", layout="tokens", show_progress=False)
    return model, folder / "out"


def test_a_pooling_gives_the_vectors_of_torch(pooled, texts):
    assert_same_vectors(*pooled, [*texts, *LONG])


def test_the_folder_opens_with_our_loader_too(pooled):
    model, folder = pooled
    is_folded = type(model[1]) is LatentAttentionPooling
    kind = type(model[1].fold() if is_folded else model[1])
    entries = json.loads((folder / "modules.json").read_text())
    assert entries[1]["type"] == f"{kind.__module__}.{kind.__name__}"
    loaded = kind.load(str(folder), subfolder=entries[1]["path"])
    states = torch.randn(2, 3, 32)
    features = {"token_embeddings": states, "all_layer_embeddings": [states] * 5, "attention_mask": torch.ones(2, 3)}
    vectors = [module.eval()(dict(features))["sentence_embedding"] for module in (model[1], loaded)]
    assert torch.allclose(*vectors, atol=1e-6)


@pytest.mark.parametrize("pooling", but_slow(["low-rank", "latent"], "latent"))
def test_a_size_of_an_elastic_model(pooling, tmp_path, texts):
    model = st_plugins.elastic(build(tmp_path / "model", pooling), sizes=[(2, 16)])
    export_onnx(model, tmp_path / "out", sizes=[(2, 16)], show_progress=False)
    assert_same_vectors(model, tmp_path / "out", texts)
    assert_same_vectors(model, tmp_path / "out", texts, layer=2, truncate_dim=16)


def test_latent_attention_is_folded_and_the_given_model_is_not(tmp_path):
    model = build(tmp_path / "model", "latent")
    export_onnx(model, tmp_path / "out", show_progress=False)
    assert type(model[1]) is LatentAttentionPooling
    graph = onnx.load(tmp_path / "out" / "onnx" / "model.onnx").graph
    shapes = [tuple(weight.dims) for weight in graph.initializer]
    assert (32, 2 * 5) in shapes  # D to heads x latents, in place of D to heads x width of a head
    assert (32, 2 * 32) not in shapes


@pytest.mark.parametrize("pooling", but_slow(POOLINGS, "latent"))
def test_prompts_are_left_out_of_the_pooling_where_the_model_says_so(pooling, tmp_path, texts):
    model = build(tmp_path / "model", pooling, include_prompt=False)
    export_onnx(model, tmp_path / "out", show_progress=False)
    assert_same_vectors(model, tmp_path / "out", texts, prompt="the cats ")
    pooled = OnnxEncoder(tmp_path / "out").encode([f"the cats {text}" for text in texts])
    # The last token of a text is never the prompt's.
    assert np.allclose(pooled, model.encode(texts, prompt="the cats "), atol=1e-3) == ("last token" in pooling)


@pytest.mark.slow
@pytest.mark.parametrize("side", ["left", "right"])
def test_an_unmasked_decoder_leaves_prompts_out_as_nv_embed_does(side, tmp_path, texts):
    causal = masking_cases.build(tmp_path / "causal", "llama")
    causal.tokenizer.padding_side = side
    torch.manual_seed(1)
    modules = [st_plugins.bidirectional(causal)[0], POOLINGS["latent"](include_prompt=False), Normalize()]
    model = st_plugins.elastic(SentenceTransformer(modules=modules, device="cpu").eval(), sizes=[(2, 32)])
    export_onnx(model, tmp_path / "out", sizes=[(2, 32)], layer_per_text=True, show_progress=False)
    for layer in (2, 4):
        assert_same_vectors(model, tmp_path / "out", texts, prompt="the cats ", layer=layer)
    told, _ = OnnxEncoder(tmp_path / "out").encode_with_exits(texts, layers=[2] * len(texts), prompt="the cats ")
    assert np.allclose(told, model.encode(texts, prompt="the cats ", layer=2), atol=1e-5)


def test_a_pooling_over_all_layers_has_no_shallow_sizes(tmp_path):
    model = st_plugins.elastic(build(tmp_path / "model", "multi-layer"), sizes=[(2, 32)])
    with pytest.raises(ExportError, match="needs the embeddings and 4 layers, got 3 tensors"):
        export_onnx(model, tmp_path / "out", sizes=[(2, 32)], show_progress=False)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("family", but_slow(["llama", "gemma3_text", "qwen2", "qwen3"], "llama"))
@pytest.mark.parametrize("is_elastic", but_slow([False, True], True))
def test_an_unmasked_decoder_gives_the_vectors_of_torch(family, is_elastic, tmp_path, texts):
    causal = masking_cases.build(tmp_path / "causal", family)
    causal.max_seq_length = 8
    model = st_plugins.bidirectional(causal)
    model = st_plugins.elastic(model, sizes=[(2, 16)]) if is_elastic else model
    folder = tmp_path / "out"
    export_onnx(model, folder, sizes=[(2, 16)] if is_elastic else [], show_progress=False)
    assert_same_vectors(model, folder, texts)
    if is_elastic:
        assert_same_vectors(model, folder, texts, layer=2, truncate_dim=16)
    modules = json.loads((folder / "modules.json").read_text())
    assert modules[0]["type"] == "sentence_transformers.models.Transformer"
    assert json.loads((folder / "config.json").read_text())["is_causal"] is False


def test_the_map_of_a_layer_goes_into_the_graph_of_its_size(tmp_path, texts):
    model = st_plugins.elastic(masking_cases.build(tmp_path / "model"), sizes=[(4, 16)])
    model = st_plugins.align_layers(model, [f"{a} {b}" for a in WORDS for b in WORDS[:3]], layers=[2])
    export_onnx(model, tmp_path / "out", sizes=[(2, 16)], show_progress=False)
    assert_same_vectors(model, tmp_path / "out", texts)
    assert_same_vectors(model, tmp_path / "out", texts, layer=2, truncate_dim=16)
    without = SentenceTransformer(modules=[model[0], model[1], model[2], model[4]], device="cpu")
    different = without.encode(texts, layer=2, truncate_dim=16)
    assert not np.allclose(OnnxEncoder(tmp_path / "out").encode(texts, layer=2, truncate_dim=16), different, atol=1e-2)


@pytest.mark.slow
def test_texts_that_leave_early_are_mapped_by_their_layer(tmp_path, texts):
    model = st_plugins.elastic(masking_cases.build(tmp_path / "model"), sizes=[(1, 32), (2, 32), (3, 32)])
    model = st_plugins.align_layers(model, [f"{a} {b}" for a in WORDS for b in WORDS[:3]]).eval()
    scores = model[0].exit_policy(-1.0).criterion
    model[0].add_exit_policy(ExitPolicy("second", scores, -1.0, (1, 2, 4)))
    export_onnx(model, tmp_path / "out", exits=["second"], layer_per_text=True, show_progress=False)
    encoder = OnnxEncoder(tmp_path / "out")
    assert np.allclose(encoder.encode(texts, exit="second"), model.encode(texts, layer=2), atol=1e-5)
    layers = [1, 4, 2, 3, 4, 1]
    found, left = encoder.encode_with_exits(texts, layers=layers)
    assert left.tolist() == layers
    expected = [model.encode(text, layer=layer) for text, layer in zip(texts, layers, strict=True)]
    assert np.allclose(found, expected, atol=1e-5)


def test_a_residual_map_behind_a_model(tmp_path, texts):
    plain = masking_cases.build(tmp_path / "model", layers=1)
    residual = ResidualMap(32, 24, hidden_dimension=16)
    torch.nn.init.normal_(residual.contract.weight)
    model = SentenceTransformer(modules=[*plain.children(), residual], device="cpu").eval()
    export_onnx(model, tmp_path / "out", show_progress=False)
    assert_same_vectors(model, tmp_path / "out", texts)


MAPS = {
    "relative": lambda vectors: [RelativeRepresentation.from_anchors(vectors[:10]), Normalize()],
    "relative, centered": lambda vectors: [RelativeRepresentation.from_anchors(vectors[:10], center=True)],
    "robust": lambda vectors: [RobustNormalizer.fitted(vectors)],
    "robust, clipped": lambda vectors: [RobustNormalizer.fitted(vectors, clip_quantile=0.2), Normalize()],
    "debias": lambda vectors: [DebiasProjection.from_sets(vectors[:10].unflatten(0, (5, 2)), 2)],
}


@pytest.mark.parametrize("kind", but_slow(MAPS, "relative, centered", "robust, clipped", "debias"))
def test_a_map_behind_a_model(kind, tmp_path, texts):
    plain = masking_cases.build(tmp_path / "model", layers=1)
    corpus = [f"{a} {b}" for a in WORDS for b in WORDS[:3]]
    modules = [*plain.children(), *MAPS[kind](plain.encode(corpus, convert_to_tensor=True))]
    model = SentenceTransformer(modules=modules, device="cpu").eval()
    assert not np.allclose(model.encode(texts)[:, :10], plain.encode(texts)[:, :10], atol=1e-2)
    # In units of their spread the numbers are larger, and so is what rounding does to them.
    is_longer = kind == "robust"
    export_onnx(model, tmp_path / "out", tolerance=1e-4 if is_longer else 1e-5, show_progress=False)
    if is_longer:
        assert np.allclose(OnnxEncoder(tmp_path / "out").encode(texts), model.encode(texts), atol=1e-4)
    else:
        assert_same_vectors(model, tmp_path / "out", [*texts, *LONG])


@pytest.mark.slow
@pytest.mark.parametrize("kind", [kind for kind in MAPS if kind != "robust"])
def test_a_map_in_half_precision_and_behind_an_elastic_model(kind, tmp_path, texts):
    plain = masking_cases.build(tmp_path / "model")
    corpus = [f"{a} {b}" for a in WORDS for b in WORDS[:3]]
    modules = [*plain.children(), *MAPS[kind](plain.encode(corpus, convert_to_tensor=True))]
    model = st_plugins.elastic(SentenceTransformer(modules=modules, device="cpu").eval(), sizes=[(2, 8)])
    export_onnx(
        model, tmp_path / "out", sizes=[(2, 8)], precisions=["fp16"], min_cosine={"fp16": 0.999}, show_progress=False
    )
    assert_same_vectors(model, tmp_path / "out", texts, layer=2, truncate_dim=8)
    halved = OnnxEncoder(tmp_path / "out", precision="fp16").encode(texts)
    cosines = [
        np.dot(a, b) / np.linalg.norm(a) / np.linalg.norm(b) for a, b in zip(halved, model.encode(texts), strict=True)
    ]
    assert min(cosines) > 0.999
