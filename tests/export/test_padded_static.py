"""StaticEmbedding as a graph over padded batches, which gives the vectors of the long row with offsets."""

import json
import os
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, StaticEmbedding
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer

import st_plugins
from st_plugins.errors import InputError, ParityError, UnsupportedModelError
from st_plugins_export import OnnxEncoder, check_parity, export_onnx
from st_plugins_export.padded_static import PaddedStaticEmbedding

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"a the cats sleep weather is lovely today find odd word".split()]


def words_tokenizer():
    """With special tokens that StaticEmbedding does not ask for."""
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return tokenizer


def letters_tokenizer(letters):
    """Drops all others."""
    return Tokenizer(models.BPE({letter: index for index, letter in enumerate(letters)}, []))


def static(*behind, tokenizer=None, **settings):
    torch.manual_seed(3)
    embedding = StaticEmbedding(tokenizer or words_tokenizer(), embedding_dim=8)
    return SentenceTransformer(modules=[embedding, *behind], device="cpu", **settings).eval()


def assert_same_vectors(model, folder, texts, **options):
    encoder = OnnxEncoder(folder)
    expected = model.encode(texts, **options)
    np.testing.assert_allclose(encoder.encode(texts, **options), expected, atol=1e-5, rtol=0)
    one_by_one = [encoder.encode(text, **options) for text in texts]
    np.testing.assert_allclose(one_by_one, expected, atol=1e-5, rtol=0)


def test_a_static_model_gives_the_vectors_of_torch(tmp_path):
    model = static(Dense(8, 6), Normalize(), prompts={"query": "find ", "document": ""})
    report = export_onnx(model, tmp_path / "out", show_progress=False)
    assert report.max_difference <= 1e-5
    texts = ["cats", "the weather is lovely today", "unheard of", "word " * 500]
    assert_same_vectors(model, tmp_path / "out", texts)
    assert_same_vectors(model, tmp_path / "out", texts, prompt_name="query")
    encoder = OnnxEncoder(tmp_path / "out")
    assert (encoder.sizes, encoder.max_seq_length) == (((0, 6),), None)
    assert encoder.fingerprint == st_plugins.fingerprint(model)
    assert check_parity(model, tmp_path / "out", texts).max_difference <= 1e-5


@pytest.mark.parametrize("precision", ["fp16", "int8", "int8-blockwise"])
def test_other_precisions(tmp_path, precision):
    torch.manual_seed(3)
    words = Tokenizer(models.WordLevel({f"word{number}": number for number in range(1200)} | {"[UNK]": 1200}, "[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.enable_truncation(16)
    model = static(Normalize(), tokenizer=words)
    report = export_onnx(model, tmp_path / "out", precisions=[precision], show_progress=False)
    assert [size.precision for size in report.sizes] == ["fp32", precision]
    texts = ["word5 word77", "word1199"]
    found = OnnxEncoder(tmp_path / "out", precision=precision).encode(texts)
    assert 0 < np.abs(found - model.encode(texts)).max() < 0.03


def test_a_vocabulary_without_our_texts_is_fitted_to_yours(tmp_path):
    model = static(tokenizer=letters_tokenizer("京東"))
    options = {"precisions": ["fp16"], "show_progress": False}
    with pytest.raises(InputError, match="must know a word of calibration_texts"):
        export_onnx(model, tmp_path / "out", calibration_texts=["London"], **options)
    report = export_onnx(model, tmp_path / "out", calibration_texts=["東京"], **options)
    assert report.sizes[1].speed > 0


def test_servers_get_padded_tensors_and_no_special_tokens(tmp_path):
    model = static(tokenizer=words_tokenizer())
    export_onnx(model, tmp_path / "out", show_progress=False)
    graph = onnx.load(tmp_path / "out" / "onnx" / "model.onnx").graph
    for tensor, name in zip(graph.input, ["input_ids", "attention_mask"], strict=True):
        assert tensor.name == name
        assert [dim.dim_param for dim in tensor.type.tensor_type.shape.dim] == ["batch", "sequence"]
    tokenizer = Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json"))
    short, _ = tokenizer.encode_batch(["cats", "the weather is lovely"])
    assert (short.ids, short.attention_mask) == ([6, 0, 0, 0], [1, 0, 0, 0])
    batch = AutoTokenizer.from_pretrained(tmp_path / "out")(["cats", "the weather"], padding=True)
    assert batch["input_ids"] == [[6, 0], [5, 8]]
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config == {"model_type": "model2vec", "architectures": ["StaticModel"], "hidden_dim": 8}
    entries = json.loads((tmp_path / "out" / "modules.json").read_text())
    assert [entry["type"] for entry in entries] == ["sentence_transformers.models.StaticEmbedding"]


def test_a_tokenizer_that_cuts_still_cuts(tmp_path):
    tokenizer = words_tokenizer()
    tokenizer.enable_truncation(3)
    model = static(tokenizer=tokenizer)
    export_onnx(model, tmp_path / "out", show_progress=False)
    assert OnnxEncoder(tmp_path / "out").max_seq_length == 3
    assert_same_vectors(model, tmp_path / "out", ["the weather is lovely today", "cats"])


def test_the_padded_form_shares_weights_and_gives_zeros_for_no_tokens():
    embedding = static()[0]
    padded = PaddedStaticEmbedding(embedding)
    assert padded.weight is embedding.embedding.weight
    features = padded(padded.preprocess(["cats sleep", ""]))
    expected = embedding(embedding.preprocess(["cats sleep", ""]))["sentence_embedding"]
    torch.testing.assert_close(features["sentence_embedding"], expected)
    assert features["sentence_embedding"][1].tolist() == [0.0] * 8
    assert embedding.tokenizer.padding is None


def test_texts_of_which_the_tokenizer_knows_nothing(tmp_path):
    model = static(tokenizer=letters_tokenizer("qz"))
    export_onnx(model, tmp_path / "out", show_progress=False)
    encoder = OnnxEncoder(tmp_path / "out")
    assert_same_vectors(model, tmp_path / "out", ["quiz", "a jazz queen"])
    assert ['"quotes"' in probe.text for probe in encoder._manifest.probes] == [True]
    with pytest.raises(InputError, match="position 1 has no tokens"):
        encoder.encode(["quiz", "cats"])
    with pytest.raises(ParityError, match="must know a word of the probes"):
        export_onnx(static(tokenizer=letters_tokenizer("ñ")), tmp_path / "nothing", show_progress=False)


def test_a_pooling_behind_it_is_refused(tmp_path):
    with pytest.raises(
        UnsupportedModelError, match="must be Dense, ResidualMap, .* LayerNorm, Dropout, Normalize, got Pooling"
    ):
        export_onnx(static(Pooling(8)), tmp_path / "out")


@pytest.mark.slow
@pytest.mark.skipif("ST_PLUGINS_DATA" not in os.environ, reason="needs the data folder")
def test_a_real_model_of_model2vec(tmp_path):
    folder = Path(os.environ["ST_PLUGINS_DATA"]) / "_models" / "model2vec-vocab-quantized"
    model = SentenceTransformer(str(folder), device="cpu")
    export_onnx(model, tmp_path / "out", show_progress=False)
    texts = ["How do I sort a list?", "naïve café 東京 🌍", "list.sort() sorts in place!", "word " * 3000]
    assert_same_vectors(model, tmp_path / "out", texts)
