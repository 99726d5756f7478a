import pytest
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding

from st_plugins.backends import open_encoder
from st_plugins.bulk.token_lengths import prompt_of, token_lengths
from st_plugins_export import export_onnx

LONG = "cat " * 50


@pytest.fixture(params=["torch", "onnx"])
def encoder(request, model, tmp_path):
    model.prompts = {"query": "it is ", "document": "the "}
    if request.param == "torch":
        return model
    export_onnx(model, tmp_path / "onnx")
    return open_encoder(str(tmp_path / "onnx"))


def test_prompts_and_special_tokens_count(encoder):
    lengths, is_cut = token_lengths(encoder, ["a dog", LONG, ""], task="document")
    assert lengths.tolist() == [5, 32, 3]
    assert is_cut.tolist() == [False, True, False]
    assert token_lengths(encoder, ["a dog"], task="query")[0].tolist() == [6]
    assert len(token_lengths(encoder, [], task="query")[0]) == 0


def test_a_text_of_exactly_the_limit_is_not_cut(encoder):
    lengths, is_cut = token_lengths(encoder, ["cat " * 29, "cat " * 30], task="document")
    assert lengths.tolist() == [32, 32]
    assert is_cut.tolist() == [False, True]


def test_the_prompt_is_the_one_that_encode_uses(model):
    model.prompts, model.default_prompt_name = {"passage": "p ", "other": "o "}, "other"
    assert prompt_of(model, "document") == "p "
    assert prompt_of(model, "query") == "o "
    model.prompts, model.default_prompt_name = {}, None
    assert prompt_of(model, "query") == ""


def test_a_static_embedding_has_no_limit(tokenizer):
    static = SentenceTransformer(modules=[StaticEmbedding(tokenizer.backend_tokenizer, embedding_dim=8)], device="cpu")
    lengths, is_cut = token_lengths(static, ["a dog", LONG], task="document")
    assert lengths[1] > 50
    assert not is_cut.any()
