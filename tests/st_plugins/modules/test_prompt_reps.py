import math
import re

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer, SparseEncoder
from transformers import AutoModelForCausalLM

import chat_cases
import st_plugins
from conftest import TEXTS
from st_plugins.errors import InputError, UnsupportedModelError
from st_plugins.modules import PromptReps

LONG = "the red dog was under the blue tree and the cat was in it " * 20
FAMILIES = ["llama", *(pytest.param(name, marks=pytest.mark.slow) for name in ("gemma2", "qwen3", "phi3", "mistral"))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return chat_cases.save_chat_model(tmp_path_factory.mktemp("chat"))


@pytest.fixture(scope="module")
def reps(folder):
    return PromptReps(str(folder)).eval()


def sparse_by_hand(logits, own, expand=False):
    """Impact by token, from a list of logits and the tokens of the text's own words."""
    weights = {token: 100 * math.log(1 + max(value, 0.0)) for token, value in enumerate(logits)}
    counted = {token: weight for token, weight in weights.items() if expand or token in own}
    if all(round(weight) == 0 for weight in counted.values()):
        best = sorted(weights, key=lambda token: -weights[token])[:10]
    else:
        best = sorted(counted, key=lambda token: -counted[token])[:128]
    return {token: round(weights[token]) for token in best if round(weights[token]) > 0}


def own_tokens(reps, text):
    words = {word for word in re.findall(r"\w+(?:['\u2019]\w+)*", text.lower()) if word not in reps.stop_words}
    return {token for word in words for token in reps.tokenizer(word, add_special_tokens=False)["input_ids"]}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("task", ["query", "document"])
def test_both_are_read_at_the_open_answer_text_by_text(family, task, tmp_path):
    folder = chat_cases.save_chat_model(tmp_path / "chat", family)
    reps = PromptReps(str(folder), request="Say one word.").eval()
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    dense, sparse = reps.encode_query(TEXTS) if task == "query" else reps.encode_document(TEXTS)
    kind = "Query" if task == "query" else "Passage"
    for row, text in enumerate(TEXTS):
        turns = [
            {"role": "system", "content": reps.system_message},
            {"role": "user", "content": f'{kind}: "{text}". Say one word.'},
            {"role": "assistant", "content": 'The word is: "'},
        ]
        chat = reps.tokenizer.apply_chat_template(turns, tokenize=False, continue_final_message=True)
        ids = reps.tokenizer(chat, add_special_tokens=False, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            state = model.model(ids).last_hidden_state[0, -1]
            logits = model(ids).logits[0, -1]
        assert torch.allclose(dense[row], state, atol=1e-4)
        found = sparse[row].to_dense()
        expected = torch.zeros_like(found)
        for token, impact in sparse_by_hand(logits.tolist(), own_tokens(reps, text)).items():
            expected[token] = impact
        assert (found - expected).abs().max() <= 1, "rounding of a half may go either way"
        assert float((found != expected).float().mean()) < 0.02


def test_neither_padding_nor_order_nor_batch_changes_a_text(reps):
    texts = [*TEXTS, LONG, ""]
    dense, sparse = reps.encode_document(texts, batch_size=len(texts))
    for order in ([*range(len(texts))][::-1], [3, 0, 6, 1, 5, 2, 4]):
        for size in (1, 3):
            again, words = reps.encode_document([texts[i] for i in order], batch_size=size)
            assert torch.allclose(again, dense[order], atol=1e-4)
            assert (words.to_dense() - sparse.to_dense()[order]).abs().max() <= 1


def test_the_host_gives_the_same_vectors(reps):
    dense, sparse = reps.encode_query(TEXTS)
    model = SentenceTransformer(modules=[reps], device="cpu")
    assert model.get_embedding_dimension() == 32
    assert np.allclose(model.encode_query(TEXTS), dense, atol=1e-4)
    assert not np.allclose(model.encode_document(TEXTS), dense, atol=1e-2), "a passage is another chat"
    encoder = SparseEncoder(modules=[reps.represented_as("sparse")], device="cpu")
    assert encoder.get_embedding_dimension() == len(reps.tokenizer)
    found = encoder.encode_query(TEXTS)
    assert found.is_sparse
    assert (found.to_dense() - sparse.to_dense()).abs().max() <= 1
    assert reps.representation == "dense"
    assert encoder[0].model is reps.model


def test_a_prompt_of_the_host_stands_before_the_text(reps):
    model = SentenceTransformer(modules=[reps], device="cpu")
    expected = reps.encode_document(["slow a dog ran"])[0].numpy()
    assert np.allclose(model.encode(["a dog ran"], prompt="slow "), expected, atol=1e-4)
    features = reps.preprocess(["a dog ran"], prompt="slow ")
    assert set(features["word_ids"][0].tolist()) == own_tokens(reps, "a dog ran")


def test_sparse_vectors_hold_tokens_of_the_text_only(reps):
    _, sparse = reps.encode_document([*TEXTS[:2], LONG])
    for row, text in zip(sparse.to_dense(), [*TEXTS[:2], LONG], strict=True):
        support = set(row.nonzero().flatten().tolist())
        assert 0 < len(support) <= 128
        assert support <= own_tokens(reps, text)
        assert (row == row.round()).all()


def test_a_text_without_words_takes_the_greatest_of_the_vocabulary(reps):
    _, sparse = reps.encode_document(["", "the and of", "..."])
    for row in sparse.to_dense():
        assert len(row.nonzero()) == 10


def test_expanded_vectors_take_the_greatest_128(folder):
    reps = PromptReps(str(folder), expand=True).eval()
    features = reps(reps.preprocess(TEXTS))
    found = features["sparse_embedding"]
    assert (found > 0).sum(dim=1).max() <= 128
    tokens = set(found[0].nonzero().flatten().tolist())
    assert not tokens <= own_tokens(reps, TEXTS[0])


@pytest.mark.parametrize(("logits", "own", "expected"), [
    ([1.0, 2.0, 3.0], [0, 1], [69, 110, 0]), ([1.0, 2.0, -3.0], [2], [69, 110, 0]), ([-1.0, 0.0], [0, 1], [0, 0]),
    ([0.004, 2.0, 1.0], [0], [0, 110, 69]), ([1.0, 2.0, 3.0], [], [69, 110, 139]),
])  # fmt: skip
def test_impacts_by_hand(reps, logits, own, expected):
    found = reps._impacts(torch.tensor([logits]), torch.tensor([[*own, -1]]))
    assert found[0].tolist() == expected
    by_hand = sparse_by_hand(logits, own)
    assert {token: value for token, value in enumerate(expected) if value} == by_hand


def test_impacts_beyond_the_128_greatest_are_dropped(reps):
    found = reps._impacts(torch.arange(300.0)[None], torch.arange(300)[None])
    assert found[0].nonzero().flatten().tolist() == list(range(172, 300))


def test_lengthening_the_logits_keeps_the_dense_vector(folder, reps):
    longer = PromptReps(str(folder)).eval()
    with torch.no_grad():
        longer.model.lm_head.weight.mul_(2)
    dense, sparse = longer.encode_query(TEXTS)
    before, weights = reps.encode_query(TEXTS)
    assert torch.equal(dense, before)
    assert not torch.equal(sparse.to_dense(), weights.to_dense())


def test_long_texts_lose_their_end_and_not_the_question(reps):
    limit = reps.max_seq_length
    features = reps.preprocess([LONG, LONG + "tree", TEXTS[1]])
    assert features["input_ids"].shape == (3, limit)
    assert torch.equal(features["input_ids"][0], features["input_ids"][1])
    assert reps.tokenizer.decode(features["input_ids"][0]).endswith('The word is: "')
    assert features["attention_mask"][:, -1].tolist() == [1, 1, 1]
    assert features["attention_mask"][2, 0] == 0


def test_stop_words_are_yours(folder):
    reps = PromptReps(str(folder), stop_words=["dog"], system_message=None)
    [ids] = reps.preprocess(["The dog ran"])["word_ids"].tolist()
    assert set(ids) == {token for word in ("the", "ran")
                        for token in reps.tokenizer(word, add_special_tokens=False)["input_ids"]}  # fmt: skip
    assert "system" not in reps.tokenizer.decode(reps.preprocess(["a"])["input_ids"][0]).split("user")[0]


@pytest.mark.parametrize("representation", ["dense", "sparse"])
def test_saved_and_loaded(folder, tmp_path, representation):
    reps = PromptReps(
        str(folder), representation=representation, expand=True, request="Say a word.", stop_words=["it"]
    ).eval()
    model = SentenceTransformer(modules=[reps], device="cpu")
    vectors = model.encode(TEXTS)
    model.save_pretrained(str(tmp_path / "model"))
    again = st_plugins.load(tmp_path / "model", device="cpu")
    assert (again[0].representation, again[0].expand, again[0].stop_words) == (representation, True, ["it"])
    assert np.array_equal(again.encode(TEXTS), vectors)
    assert st_plugins.fingerprint(again) == st_plugins.fingerprint(model)
    changed = SentenceTransformer(modules=[PromptReps(str(folder), request="Say two.")], device="cpu")
    assert st_plugins.fingerprint(changed) != st_plugins.fingerprint(model)


def test_a_sparse_encoder_saves_and_loads_it(reps, tmp_path):
    encoder = SparseEncoder(modules=[reps.represented_as("sparse")], device="cpu")
    encoder.save_pretrained(str(tmp_path / "model"))
    again = SparseEncoder(str(tmp_path / "model"), device="cpu", trust_remote_code=True)
    assert torch.equal(again.encode(TEXTS).to_dense(), encoder.encode(TEXTS).to_dense())


def test_it_is_not_made_elastic(reps):
    with pytest.raises(UnsupportedModelError, match="must be sentence-transformers' Transformer, got PromptReps"):
        st_plugins.elastic(SentenceTransformer(modules=[reps], device="cpu"))


def test_what_cannot_be_is_refused(folder, reps, tmp_path):
    with pytest.raises(InputError, match="representation must be 'dense' or 'sparse', got 'both'"):
        PromptReps(str(folder), representation="both")
    with pytest.raises(InputError, match="representation must be 'dense' or 'sparse', got 'both'"):
        reps.represented_as("both")
    with pytest.raises(InputError, match="embeds texts, got int at row 1 of the batch"):
        reps.preprocess(["a", 3])
    with pytest.raises(InputError, match=r"row 0 of the batch, .* is not valid Unicode"):
        reps.preprocess(["not \ud800"])
    with pytest.raises(InputError, match="texts must hold at least one text, got none"):
        reps.encode_query([])
    assert reps.preprocess([]) == {}
    untaught = chat_cases.save_chat_model(tmp_path / "untaught", template=None)
    with pytest.raises(UnsupportedModelError, match="must have a chat template"):
        PromptReps(str(untaught))


def test_what_it_is_called(reps):
    assert repr(reps).startswith("PromptReps('dense', ")
