import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize
from transformers import MistralConfig, MistralModel

import reference
from nv_embed_cases import BODY, tokenizer, weights, write_checkpoint
from st_plugins.errors import UnsafeModelError, UnsupportedModelError
from st_plugins.modules.bidirectional_transformer import BidirectionalTransformer
from st_plugins.modules.latent_attention_pooling import LatentAttentionPooling
from st_plugins.nv_embed import from_nv_embed, nv_embed_prompt

QUERIES = ["are cat", "the red tree", "dog"]
DOCUMENTS = ["a cat sat", "the dog sat the red tree are a cats", "tree"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("nv-embed"))


@pytest.fixture(scope="module")
def model(folder):
    return from_nv_embed(folder, task="find cats", device="cpu")


def published_vectors(texts, instruction):
    """One text at a time, as the published code and model card do it. None of our code, none of the host's."""
    tensors = weights()
    config = {name: value for name, value in BODY.items() if name not in ("model_type", "sliding_window")}
    body = MistralModel(MistralConfig(**config, sliding_window=None)).eval()
    prefix = "embedding_model."
    missing = body.load_state_dict(
        {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    )
    assert not missing.missing_keys
    block = "latent_attention_model.cross_attend_blocks."
    to_kv = tensors[f"{block}0.fn.to_kv.weight"]
    letters = {
        "Z": tensors["latent_attention_model.latents"],
        "W_q": tensors[f"{block}0.fn.to_q.weight"],
        "W_k": to_kv[: len(to_kv) // 2],
        "W_v": to_kv[len(to_kv) // 2 :],
        "W_o": tensors[f"{block}0.fn.to_out.weight"],
        "W_1": tensors[f"{block}1.fn.net.0.weight"],
        "b_1": tensors[f"{block}1.fn.net.0.bias"],
        "W_2": tensors[f"{block}1.fn.net.2.weight"],
        "b_2": tensors[f"{block}1.fn.net.2.bias"],
    }
    letters = {name: tensor.tolist() for name, tensor in letters.items()}
    for letter, norm in (("LN_q", "0.norm"), ("LN_c", "0.norm_context"), ("LN_f", "1.norm")):
        letters[letter] = tuple(tensors[f"{block}{norm}.{part}"].tolist() for part in ("weight", "bias"))
    bpe = tokenizer()
    skipped = len(bpe.encode(instruction, add_special_tokens=False).ids) if instruction else 0
    vectors = []
    for text in texts:
        ids = bpe.encode(f"{instruction}{text}</s>").ids
        with torch.no_grad():
            everything = torch.zeros(1, 1, len(ids), len(ids))
            states = body(input_ids=torch.tensor([ids]), attention_mask=everything, use_cache=False).last_hidden_state
        mask = [[0] * skipped + [1] * (len(ids) - skipped)]
        (pooled,) = reference.latent_attention_pooling(states.tolist(), mask, letters, head_dim=4)
        vectors.append(reference.truncate(pooled, len(pooled)))
    return np.array(vectors)


def test_documents_have_the_published_vectors(model):
    expected = published_vectors(DOCUMENTS, "")
    assert np.allclose(model.encode_document(DOCUMENTS), expected, atol=1e-5)
    assert np.allclose(model.encode(DOCUMENTS), expected, atol=1e-5)


def test_queries_have_the_published_vectors(model):
    expected = published_vectors(QUERIES, "Instruct: find cats\nQuery: ")
    assert np.allclose(model.encode_query(QUERIES), expected, atol=1e-5)
    assert np.allclose(model.encode(QUERIES, prompt=nv_embed_prompt("find cats")), expected, atol=1e-5)
    other = published_vectors(QUERIES, "Instruct: the red dog\nQuery: ")
    assert np.allclose(model.encode(QUERIES, prompt=nv_embed_prompt("the red dog")), other, atol=1e-5)
    assert np.abs(expected - other).max() > 1e-2


def test_the_last_space_of_the_prompt_belongs_to_the_query(model):
    """The trap: alone, the prompt has one token more than it has in front of a query."""
    prompt = model.prompts["query"]
    bpe = tokenizer()
    assert bpe.encode(prompt).tokens[-2:] == [":", "▁"]
    features = model.preprocess(["are cat"], prompt=prompt)
    tokens = model.tokenizer.convert_ids_to_tokens(features["input_ids"][0].tolist())
    assert tokens[features["prompt_length"] :] == ["▁are", "▁cat", "</s>"]


def test_padding_is_on_the_right_and_eos_at_the_end_of_each_text(model):
    features = model.preprocess(["cat", "a red tree"])
    tokens = [model.tokenizer.convert_ids_to_tokens(row) for row in features["input_ids"].tolist()]
    assert tokens == [["<s>", "▁cat", "</s>", "</s>", "</s>"], ["<s>", "▁a", "▁red", "▁tree", "</s>"]]
    assert features["attention_mask"].tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]
    assert set(features) <= {"input_ids", "attention_mask", "modality"}


def test_what_is_cut_keeps_its_eos(folder):
    model = from_nv_embed(folder, device="cpu")
    assert model.max_seq_length == 64
    model.max_seq_length = 4
    tokens = model.tokenizer.convert_ids_to_tokens(model.preprocess(["a red tree cat"])["input_ids"][0].tolist())
    assert tokens == ["<s>", "▁a", "▁red", "</s>"]


def test_its_modules(model):
    assert [type(module) for module in model] == [BidirectionalTransformer, LatentAttentionPooling, Normalize]
    assert model.prompts["query"] == "Instruct: find cats\nQuery: "
    assert model.prompts["document"] == ""
    assert model.similarity_fn_name == "cosine"
    assert model.get_embedding_dimension() == 8
    assert not model.training
    assert not model[1].include_prompt


def test_the_task_of_the_model_card_is_the_usual_one(folder):
    prompt = "Instruct: Given a question, retrieve passages that answer the question\nQuery: "
    assert from_nv_embed(folder, device="cpu").prompts["query"] == prompt


def test_folded_it_gives_the_same(model):
    folded = SentenceTransformer(modules=[model[0], model[1].fold(), Normalize()], prompts=model.prompts, device="cpu")
    assert np.allclose(folded.encode_query(QUERIES), model.encode_query(QUERIES), atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_saved_and_loaded(tmp_path, dtype):
    source, saved = tmp_path / "source", tmp_path / "saved"
    source.mkdir()
    model = from_nv_embed(write_checkpoint(source, weights(dtype)), task="find cats", device="cpu")
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    model.save_pretrained(str(saved))
    again = SentenceTransformer(str(saved), trust_remote_code=True, device="cpu", model_kwargs={"dtype": dtype})
    for texts in (QUERIES, DOCUMENTS):
        assert np.allclose(again.encode_query(texts), model.encode_query(texts), atol=1e-6)
        assert np.allclose(again.encode_document(texts), model.encode_document(texts), atol=1e-6)
    assert again.max_seq_length == 64
    assert again.tokenizer.padding_side == "right"


def test_another_folder_is_refused(tiny_folder):
    with pytest.raises(UnsupportedModelError, match="config.json must be NV-Embed's, with 'text_config'"):
        from_nv_embed(tiny_folder)


def test_a_damaged_tokenizer_is_refused(tmp_path):
    write_checkpoint(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(UnsafeModelError, match="tokenizer.json is no tokenizer, or damaged: .* Download it again"):
        from_nv_embed(tmp_path)


def test_a_folder_without_tokenizer_is_refused(tmp_path):
    write_checkpoint(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(UnsupportedModelError, match="The folder must hold tokenizer.json, and"):
        from_nv_embed(tmp_path)
