"""The class paths in saved models are a file format. ``data/`` holds a folder of every release that wrote a new one."""

import json
from pathlib import Path

import numpy as np
import pytest

import st_plugins
from st_plugins import modules

DATA = Path(__file__).parent / "data"
RELEASES = sorted(folder.name for folder in DATA.iterdir() if folder.is_dir())
GOLDEN_PATHS = {
    "AttentionPooling": "st_plugins.modules.attention_pooling.AttentionPooling",
    "BidirectionalTransformer": "st_plugins.modules.bidirectional_transformer.BidirectionalTransformer",
    "DebiasProjection": "st_plugins.modules.debias_projection.DebiasProjection",
    "ElasticTransformer": "st_plugins.modules.elastic_transformer.ElasticTransformer",
    "FixedDimensionalEncoder": "st_plugins.modules.fixed_dimensional_encoding.FixedDimensionalEncoder",
    "FoldedLatentAttentionPooling": ("st_plugins.modules.folded_latent_attention_pooling.FoldedLatentAttentionPooling"),
    "InterpolatedTransformer": "st_plugins.modules.interpolated_transformer.InterpolatedTransformer",
    "LatentAttentionPooling": "st_plugins.modules.latent_attention_pooling.LatentAttentionPooling",
    "LayerAlignment": "st_plugins.modules.layer_alignment.LayerAlignment",
    "MultiLayerPooling": "st_plugins.modules.multi_layer_pooling.MultiLayerPooling",
    "ProductQuantization": "st_plugins.modules.product_quantization.ProductQuantization",
    "PromptReps": "st_plugins.modules.prompt_reps.PromptReps",
    "RelativeRepresentation": "st_plugins.modules.relative_representation.RelativeRepresentation",
    "ResidualBinarization": "st_plugins.modules.residual_binarization.ResidualBinarization",
    "ResidualMap": "st_plugins.modules.residual_map.ResidualMap",
    "RobustNormalizer": "st_plugins.modules.robust_normalizer.RobustNormalizer",
    "SelfExtendTransformer": "st_plugins.modules.self_extend_transformer.SelfExtendTransformer",
    "Truncation": "st_plugins.modules.truncation.Truncation",
}


def test_class_paths_never_change():
    paths = {
        name: f"{cls.__module__}.{cls.__qualname__}" for name, cls in vars(modules).items() if isinstance(cls, type)
    }
    assert paths == GOLDEN_PATHS
    assert sorted(GOLDEN_PATHS) == modules.__all__


def test_there_is_a_release_to_load():
    assert RELEASES


@pytest.mark.parametrize("release", RELEASES)
def test_what_a_release_saved_still_gives_its_vectors(release):
    folder = DATA / release
    expected = json.loads((folder / "expected.json").read_text())
    model = st_plugins.load(folder, device="cpu")
    assert [type(module).__name__ for module in model.children()] == expected["classes"]
    for case in expected["cases"]:
        vectors = model.encode(expected["texts"], **case["options"])
        assert np.allclose(vectors, np.array(case["vectors"]), atol=1e-5), case["options"]


@pytest.mark.parametrize("release", RELEASES)
def test_its_fingerprint_is_the_same_on_every_machine(release):
    expected = json.loads((DATA / release / "expected.json").read_text())
    assert st_plugins.fingerprint(st_plugins.load(DATA / release, device="cpu")) == expected["fingerprint"]
