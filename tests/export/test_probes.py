"""What an export is compared on."""

import copy

import pytest
from tokenizers import normalizers

import st_plugins
from st_plugins.errors import ParityError
from st_plugins_export import check_parity, export_onnx
from st_plugins_export.opened import OpenedExport
from st_plugins_export.probes import PROBE_TEXTS, find_probes, probe_texts, token_batches

LIMIT = 24


@pytest.fixture(scope="module")
def tried(plain, exported):
    """Batches with their tokens."""
    opened = OpenedExport(exported)
    return list(token_batches(plain, opened, find_probes(plain, opened)))


def test_batches_are_of_one_three_and_thirty_two(tried):
    assert {len(texts) for texts, _, _ in tried} == {1, 3, 32}


def test_every_prompt_is_tried_with_every_kind_of_text_alone(plain, exported, tried):
    opened = OpenedExport(exported)
    kinds = find_probes(plain, opened).tried.kinds
    assert list(kinds) == [*PROBE_TEXTS, "full length", "over the limit"]
    alone = {
        prompt: [texts[0] for texts, other, _ in tried if other == prompt and len(texts) == 1]
        for prompt in _prompts(tried)
    }
    assert set(alone) == {"", "find: ", "name of "}
    assert all(set(PROBE_TEXTS.values()) < set(texts) and len(texts) == len(kinds) for texts in alone.values())


def _prompts(tried):
    return {prompt for _, prompt, _ in tried}


def test_lengths_are_the_least_odd_even_full_and_too_large(tried):
    without = [encoding for texts, prompt, found in tried if not prompt and len(texts) == 1 for encoding in found]
    lengths = [len(encoding) for encoding in without]
    assert min(lengths) == 2  # the empty text: [CLS] and [SEP]
    assert {length % 2 for length in lengths if length < LIMIT} == {0, 1}
    full = [encoding for encoding in without if len(encoding) == LIMIT]
    assert any(not encoding.overflowing for encoding in full)
    assert any(encoding.overflowing for encoding in full)


def test_a_batch_of_thirty_two_has_eight_texts_of_full_length_among_short_ones(tried):
    counts = [
        [len(encoding) for encoding in found] for texts, prompt, found in tried if len(texts) == 32 and not prompt
    ]
    assert [lengths.count(LIMIT) for lengths in counts][-1] >= 8
    assert min(counts[-1]) == 2


def test_a_large_model_gets_a_shorter_batch_of_thirty_two(plain, exported, monkeypatch):
    opened = OpenedExport(exported)
    weights = sum(parameter.numel() for name, parameter in plain.named_parameters() if "embeddings.weight" not in name)
    monkeypatch.setattr("st_plugins_export.probes._MOST_WORK", 32 * weights * 11)
    large = find_probes(plain, opened)
    batches = [batch.texts for batch in large.batches if not batch.prompt]
    lengths = [len(encoding) for encoding in opened.tokenize(batches[-1])]
    assert len(lengths) == 32
    assert lengths.count(11) == 8
    assert [batches[-1][3]] in batches  # alone as well
    assert large.tried.batches[1] == large.tried.batches[3] == LIMIT


def test_texts_of_ones_own_come_in_their_order_without_a_prompt(plain, exported):
    texts = [f"cats {number}" for number in range(40)]
    opened = OpenedExport(exported)
    probes = find_probes(plain, opened, texts)
    batches = list(token_batches(plain, opened, probes))
    assert [len(batch) for batch, _, _ in batches] == [32, 8]
    assert [text for batch, _, _ in batches for text in batch] == texts
    assert {prompt for _, prompt, _ in batches} == {""}
    assert (probes.tried.texts, probes.tried.kinds, probes.tried.prompts) == (40, {}, ("",))


def test_the_report_says_what_was_tried(elastic, exported):
    tried = check_parity(elastic, exported).tried
    assert (tried.shortest, tried.longest) == (2, LIMIT)
    assert tried.batches == {1: LIMIT, 3: LIMIT, 32: LIMIT}
    assert tried.kinds["one word"] == 3
    assert tried.prompts == ("", "find: ", "name of ")


def test_other_tokens_are_found(plain, exported):
    other = copy.deepcopy(plain)
    backend = other.tokenizer.backend_tokenizer
    backend.normalizer = normalizers.Sequence([backend.normalizer, normalizers.Replace("c", "d")])
    opened = OpenedExport(exported)
    with pytest.raises(ParityError, match="other tokens than the model for 'cats'.*cannot be exported"):
        list(token_batches(other, opened, find_probes(other, opened, ["sleep", "cats"])))


def test_an_elastic_model_without_special_tokens_is_not_given_the_empty_text(build, tmp_path):
    model = st_plugins.elastic(build())
    model.tokenizer.backend_tokenizer.post_processor = None  # no [CLS], no [SEP]
    tried = export_onnx(model, tmp_path / "out", show_progress=False).tried
    assert "empty" not in tried.kinds
    assert (tried.kinds["one word"], tried.shortest) == (1, 1)


def test_probes_without_tokens_are_left_out(plain):
    assert probe_texts(plain) == list(PROBE_TEXTS.values())
    empty = copy.deepcopy(plain)
    empty.tokenizer.backend_tokenizer.post_processor = None  # no [CLS], no [SEP]
    assert probe_texts(empty) == [text for text in PROBE_TEXTS.values() if text]
