import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding

from st_plugins.errors import InputError, UnsupportedModelError
from st_plugins.training.instructions import instruction_prompt, joined_text
from tokenizer_cases import CORPUS, byte_level, joins_marks, sentence_piece, speaking

TASK = "find cats"
TEMPLATE = "Instruct: {task}\nQuery: "
QUERIES = ["cats are red", "Cats", "12 cats", "(not) cats", "über", "a tree", ": cats"]


def kept(model, prompt, text):
    """What the tokens behind the prompt cover of prompt and text, by the tokenizer's own offsets."""
    length = int(model.preprocess([text], prompt=prompt)["prompt_length"])
    coded = model.tokenizer(prompt + text, return_offsets_mapping=True)
    spans = [span for span in coded["offset_mapping"][length:] if span[1] > span[0]]
    return (prompt + text)[spans[0][0] :].strip() if spans else ""


@pytest.mark.parametrize("fast", [byte_level, sentence_piece])
def test_the_space_at_the_end_would_cost_the_first_word(plain, fast):
    model = speaking(plain, fast())
    prompt = TEMPLATE.format(task=TASK)
    assert joined_text(model, prompt, QUERIES) == "cats are red"
    assert kept(model, prompt, "cats are red") == "are red"
    chosen = instruction_prompt(model, TASK, QUERIES)
    assert chosen == "Instruct: find cats\nQuery:"
    assert [kept(model, chosen, text) for text in QUERIES] == QUERIES


def test_a_new_line_stands_in_where_the_mark_would_join_the_text_too(plain):
    model = speaking(plain, byte_level([*CORPUS, "Query:(not) cats"] * 4))
    prompt = TEMPLATE.format(task=TASK)
    assert joined_text(model, prompt.rstrip(), QUERIES) == "(not) cats"
    chosen = instruction_prompt(model, TASK, QUERIES)
    assert chosen == "Instruct: find cats\nQuery:\n"
    assert [kept(model, chosen, text) for text in QUERIES] == QUERIES


@pytest.mark.parametrize("fast", [byte_level, sentence_piece, joins_marks])
@pytest.mark.parametrize("end", ["Query: ", "Query:", "Query:\n", "Query: \n", "Query", "(", "Query: c"])
def test_exact_means_that_the_offsets_say_so_too(plain, fast, end):
    model = speaking(plain, fast())
    prompt = f"Instruct: {TASK}\n{end}"
    for text in QUERIES:
        if joined_text(model, prompt, [text]) is None:
            assert kept(model, prompt, text) == text


def test_the_test_above_can_fail(plain):
    model = speaking(plain, byte_level())
    found = {
        (end, text): joined_text(model, f"Instruct: {TASK}\n{end}", [text]) is None
        for end in ("Query: ", "Query:", "Query: c")
        for text in QUERIES
    }
    assert sum(found.values()) >= 6
    assert sum(not exact for exact in found.values()) >= 6
    assert kept(model, f"Instruct: {TASK}\nQuery: ", "cats are red") != "cats are red"


def test_word_pieces_take_the_template_as_it_is(minilm):
    prompt = instruction_prompt(minilm, TASK, QUERIES)
    assert prompt == "Instruct: find cats\nQuery: "
    # [CLS], ins, ##truct, :, find, cats, query, : are the prompt's.
    assert minilm.preprocess(["cats"], prompt=prompt)["prompt_length"] == 8
    assert [kept(minilm, prompt, text) for text in QUERIES] == QUERIES


def test_a_tokenizer_of_words_takes_the_template_as_it_is(plain):
    assert instruction_prompt(plain, "find the cat", ["the mat"]) == "Instruct: find the cat\nQuery: "


def test_the_text_embedding_is_the_mean_of_the_texts_own_tokens(plain):
    model = speaking(plain, sentence_piece())
    model.set_pooling_include_prompt(False)
    prompt = instruction_prompt(model, TASK, QUERIES)
    for text in QUERIES:
        spans = model.tokenizer(prompt + text, return_offsets_mapping=True)["offset_mapping"]
        own = [start >= len(prompt) or start == end == 0 for start, end in spans]
        own[0] = False  # the first special token counts to the prompt, the last one to the text
        states = model.encode(prompt + text, output_value="token_embeddings")
        mean = states[torch.tensor(own)].mean(dim=0)
        assert torch.allclose(torch.as_tensor(model.encode(text, prompt=prompt)), mean / mean.norm(), atol=1e-6)


def test_a_template_of_ones_own(minilm):
    assert instruction_prompt(minilm, "x", ["y"], template="{task} -> ") == "x -> "
    with pytest.raises(InputError, match=r"must say where the task goes, with \{task\}, got 'Query: '"):
        instruction_prompt(minilm, "x", ["y"], template="Query: ")
    assert instruction_prompt(minilm, "x", ["y"], template="{task} {json}: ") == "x {json}: "
    assert instruction_prompt(minilm, "a {b}", ["y"]) == "Instruct: a {b}\nQuery: "


def test_a_tokenizer_that_joins_everything_is_refused_and_the_advice_helps(plain):
    model = speaking(plain, joins_marks())
    with pytest.raises(UnsupportedModelError, match="must keep prompt and text apart, it joins .* ends in a mark it"):
        instruction_prompt(model, "cats", ["cats", "\ncats"], template="{task} Query:")
    assert instruction_prompt(model, "cats", ["cats", "\ncats"], template="{task}|") == "cats|"


@pytest.mark.parametrize("length", [3, 8, 9])
def test_an_instruction_that_fills_the_text_limit_is_refused(minilm, length):
    minilm.max_seq_length = length
    with pytest.raises(InputError, match=rf"fills all of max_seq_length={length} tokens: 'Instruct: .*raise model.max"):
        instruction_prompt(minilm, TASK, QUERIES)


def test_an_instruction_that_leaves_one_token_is_taken(minilm):
    minilm.max_seq_length = 10
    prompt = instruction_prompt(minilm, TASK, ["cats are red"])
    features = minilm.preprocess(["cats are red"], prompt=prompt)
    assert features["prompt_length"] == 8
    assert features["input_ids"].shape == (1, 10)


def test_a_text_that_melts_into_the_unknown_end_of_a_prompt_is_found(plain):
    model = speaking(plain, sentence_piece())
    assert len(model.tokenizer.tokenize("cats§§§")) == len(model.tokenizer.tokenize("cats§"))
    assert joined_text(model, "cats§", ["cats", "§§"]) == "§§"


@pytest.mark.parametrize("texts", [[], ["", " \n"]])
def test_nothing_to_try_it_on_is_refused(minilm, texts):
    with pytest.raises(InputError, match="texts that follow the prompt, got none with a word. Pass a few queries"):
        instruction_prompt(minilm, TASK, texts)


def test_texts_without_a_word_are_passed_over(minilm):
    assert joined_text(minilm, "Query: ", ["", "cats"]) is None


def test_a_model_that_counts_no_prompt_is_refused(tokenizer):
    static = SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=4)], device="cpu")
    with pytest.raises(UnsupportedModelError, match="must count the tokens of a prompt, StaticEmbedding does not"):
        instruction_prompt(static, TASK, QUERIES)
