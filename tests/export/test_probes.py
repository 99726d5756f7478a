"""What an export is compared on."""

import copy

import pytest
from tokenizers import normalizers

from st_plugins.errors import ParityError
from st_plugins_export.opened import OpenedExport
from st_plugins_export.probes import PROBE_TEXTS, token_batches


def test_probes_are_of_all_lengths_and_prompts_alone_and_in_batches(plain, exported):
    batches = list(token_batches(plain, OpenedExport(exported), None))
    assert {len(texts) for texts, _, _ in batches} == {1, 3, 32}
    assert {prompt for _, prompt, _ in batches} == {"", "find: ", "name of "}
    lengths = [len(encoding) for _, _, encodings in batches for encoding in encodings]
    assert (min(lengths), max(lengths)) == (3, 24)
    assert any(encoding.overflowing for _, _, encodings in batches for encoding in encodings)
    assert {text for texts, _, _ in batches for text in texts} > set(PROBE_TEXTS)


def test_texts_of_ones_own_come_in_their_order_without_a_prompt(plain, exported):
    texts = [f"cats {number}" for number in range(40)]
    batches = list(token_batches(plain, OpenedExport(exported), texts))
    assert [len(batch) for batch, _, _ in batches] == [32, 8]
    assert [text for batch, _, _ in batches for text in batch] == texts
    assert {prompt for _, prompt, _ in batches} == {""}


def test_other_tokens_are_found(plain, exported):
    other = copy.deepcopy(plain)
    backend = other.tokenizer.backend_tokenizer
    backend.normalizer = normalizers.Sequence([backend.normalizer, normalizers.Replace("c", "d")])
    with pytest.raises(ParityError, match="other tokens than the model for 'cats'.*cannot be exported"):
        list(token_batches(other, OpenedExport(exported), ["sleep", "cats"]))
