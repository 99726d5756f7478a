import inspect
import re
from importlib import import_module
from pathlib import Path

import pytest

PACKAGES = [
    "st_plugins",
    "st_plugins.bulk",
    "st_plugins.compression",
    "st_plugins.evaluation",
    "st_plugins.exits",
    "st_plugins.long_texts",
    "st_plugins.losses",
    "st_plugins.modules",
    "st_plugins.multi_vector",
    "st_plugins.training",
    "st_plugins_export",
    "langchain_st_plugins",
]
EXPECTED = {
    "st_plugins": [
        "adapt_to_index",
        "align_layers",
        "bake",
        "bidirectional",
        "bulk",
        "compression",
        "elastic",
        "errors",
        "evaluation",
        "exits",
        "fingerprint",
        "from_nv_embed",
        "fuse_scores",
        "load",
        "long_texts",
        "losses",
        "modules",
        "multi_vector",
        "training",
    ],
    "st_plugins.bulk": ["BulkEmbedder", "BulkReport", "EmbeddedTexts", "JobSettings", "embed_files"],
    "st_plugins.compression": ["BitPlanes", "faiss_index", "fit_codebooks"],
    "st_plugins.evaluation": [
        "CompatibilityEvaluator",
        "DirectBiasEvaluator",
        "ElasticGridEvaluator",
        "MtebEncoder",
        "RankMeEvaluator",
        "TteDepthEvaluator",
        "UtilizationEvaluator",
        "WeatEvaluator",
        "indirect_bias",
        "write_model_card",
        "write_report_page",
    ],
    "st_plugins.exits": [
        "Certificate",
        "Drift",
        "ExitPolicy",
        "Gate",
        "OverlapRisk",
        "Saturation",
        "calibrate_exits",
        "check_drift",
        "encode_progressively",
        "encode_with_exits",
        "policy_table",
        "write_policy_table",
    ],
    "st_plugins.long_texts": ["ContextWindows", "extend_positions", "scale_attention", "self_extend"],
    "st_plugins.losses": [
        "ElasticLoss",
        "EspressoLoss",
        "FixedVectorCrossEntropyLoss",
        "GenerationRetrievalLoss",
        "GivenNegativesLoss",
        "GuidedNegativesLoss",
        "IndexRankingLoss",
        "IndividualTemperatureLoss",
        "ManifoldInstanceMixupLoss",
        "MaskedAutoencoderLoss",
        "MixupContrastiveLoss",
        "MomentumQueueLoss",
        "OrthogonalProjectionLoss",
        "QuantizationLoss",
        "SoftContrastiveLoss",
        "StarbucksLoss",
        "TwoDMatryoshkaLoss",
        "class_means",
        "simplex_vertices",
    ],
    "st_plugins.modules": [
        "AttentionPooling",
        "BidirectionalTransformer",
        "DebiasProjection",
        "ElasticTransformer",
        "FixedDimensionalEncoder",
        "FoldedLatentAttentionPooling",
        "InterpolatedTransformer",
        "LatentAttentionPooling",
        "LayerAlignment",
        "MultiLayerPooling",
        "ProductQuantization",
        "PromptReps",
        "RelativeRepresentation",
        "ResidualBinarization",
        "ResidualMap",
        "RobustNormalizer",
        "SelfExtendTransformer",
        "Truncation",
    ],
    "st_plugins.multi_vector": ["ExactIndex", "MultiVectorSearch", "TokenRetrieval", "carve_balls"],
    "st_plugins.training": [
        "LossStateCallback",
        "NestedMaskingCollator",
        "WordRepetitionCollator",
        "add_lora",
        "class_examples",
        "instruction_prompt",
        "keep_scored",
        "learn_merge",
        "merge_lora",
        "merge_models",
        "mine_modality_negatives",
        "similarity_examples",
        "train_gates",
        "two_stage_trainer",
    ],
    "st_plugins_export": ["ExportReport", "OnnxEncoder", "OnnxModule", "check_parity", "export_onnx"],
    "langchain_st_plugins": [
        "ElasticEmbeddings",
        "ElasticRetriever",
        "ElasticVectorStore",
        "FullDepthReranker",
        "MultiVectorRetriever",
        "create_budget_tool",
    ],
}
PUBLIC = [
    (package, name)
    for package in PACKAGES
    for name in EXPECTED[package]
    if name
    not in (
        "bulk",
        "compression",
        "errors",
        "evaluation",
        "exits",
        "long_texts",
        "losses",
        "modules",
        "multi_vector",
        "training",
    )
]

_WITH_METHODS = ("compression", "long_texts", "losses", "modules", "training")
METHODS = [
    *(name for part in _WITH_METHODS for name in EXPECTED[f"st_plugins.{part}"]),
    *(name for name in EXPECTED["st_plugins.evaluation"] if name.endswith("Evaluator") and name[:7] != "Elastic"),
]


@pytest.mark.parametrize("package", PACKAGES)
def test_the_public_surface_is_exactly_this(package):
    module = import_module(package)
    assert module.__all__ == sorted(EXPECTED[package])
    assert set(EXPECTED[package]) <= set(dir(module))


@pytest.mark.parametrize("package", ["st_plugins", "st_plugins_export"])
def test_an_unknown_name_is_an_attribute_error(package):
    with pytest.raises(AttributeError, match="no attribute 'no_such_name'"):
        _ = import_module(package).no_such_name


@pytest.mark.parametrize(("package", "name"), PUBLIC)
def test_every_public_name_says_what_it_is_and_shows_it(package, name):
    thing = getattr(import_module(package), name)
    assert "Example:" in inspect.getdoc(thing)
    assert ">>> " in inspect.getdoc(thing)


@pytest.mark.parametrize(("package", "name"), PUBLIC)
def test_no_function_shares_its_name_with_a_file(package, name):
    # Importing the file would put the module where the function was.
    folder = Path(import_module(package).__file__).parent
    assert not (folder / f"{name}.py").exists()


@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_on_one_page_with_its_paper(name):
    page = (Path(__file__).parent.parent / "st_plugins" / "README.md").read_text()
    assert re.search(rf"\b{name}[`(]", page), f"st_plugins/README.md has no row for {name}"


def test_no_file_is_longer_than_three_hundred_lines():
    root = Path(__file__).parent.parent
    long = {
        str(file.relative_to(root)): lines
        for folder in ("st_plugins", "export", "langchain_integration", "examples", "benchmarks", "tests")
        for file in (root / folder).rglob("*.py")
        if file.name != "reference.py"  # every formula of the field, slowly
        if (lines := len(file.read_text().splitlines())) > 300
    }
    assert not long


def test_every_source_file_has_a_test_file_of_its_name():
    root = Path(__file__).parent.parent
    tests = {file.name for file in (root / "tests").rglob("test_*.py")}
    sources = [
        file
        for folder in ("st_plugins", "export", "langchain_integration")
        for file in (root / folder).rglob("*.py")
        if file.name != "__init__.py"
    ]
    assert sources
    assert [str(file) for file in sources if f"test_{file.stem.strip('_')}.py" not in tests] == []
