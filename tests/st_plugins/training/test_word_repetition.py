from types import SimpleNamespace

import pytest
import torch
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

from st_plugins.errors import LossError, UnsupportedModelError
from st_plugins.training import WordRepetitionCollator
from st_plugins.training.word_repetition import repeated_positions
from trainers import quiet_trainer

CLS, SEP, PAD = 2, 3, 0


def rows(texts):
    return [{"text": text} for text in texts]


def tokens(batch, side):
    mask = batch[f"{side}_attention_mask"]
    return [
        ids[: int(m.sum())].tolist() if m[0] else ids[-int(m.sum()) :].tolist()
        for ids, m in zip(batch[f"{side}_input_ids"], mask, strict=True)
    ]


def test_the_first_column_is_the_models_own_batch(plain, texts):
    batch = WordRepetitionCollator(plain)(rows(texts))
    own = plain.preprocess(texts)
    assert {name for name in batch if name.startswith("text_")} == {f"text_{name}" for name in own}
    assert all(torch.equal(batch[f"text_{name}"], value) for name, value in own.items() if torch.is_tensor(value))


def test_tokens_of_the_second_follow_themselves(plain, texts):
    collator, lengths = WordRepetitionCollator(plain, rate=0.5), set()
    for _ in range(50):
        batch = collator(rows(texts))
        once, twice = tokens(batch, "text"), tokens(batch, "repeated_text")
        for before, after in zip(once, twice, strict=True):
            left, repeats = list(before), 0
            for place, token in enumerate(after):
                if left and token == left[0]:
                    left.pop(0)
                else:
                    assert token == after[place - 1]
                    repeats += 1
            assert not left
            assert after[0] == CLS
            assert after[-1] == SEP
            assert (after.count(CLS), after.count(SEP)) == (1, 1)
            content = len(before) - 2
            assert repeats <= min(max(2, content // 2), content)
            lengths.add((content, repeats))
    # One word, three words, eight or more: from nothing to the most.
    assert {(1, 0), (1, 1), (3, 0), (3, 2), (6, 3)} <= lengths


def test_every_count_is_as_likely(plain):
    torch.manual_seed(1)
    is_special = [True, *[False] * 10, True]
    counts = [len(repeated_positions(list(range(12)), is_special, 0.32, 99)) - 12 for _ in range(4000)]
    assert set(counts) == {0, 1, 2, 3}
    for count in range(4):
        assert counts.count(count) == pytest.approx(1000, abs=120)


def test_nothing_is_repeated_at_rate_0(plain, texts):
    batch = WordRepetitionCollator(plain, rate=0.0)(rows(texts))
    assert torch.equal(batch["text_input_ids"], batch["repeated_text_input_ids"])
    assert torch.equal(batch["text_attention_mask"], batch["repeated_text_attention_mask"])


def test_what_does_not_fit_is_cut_at_the_end_of_the_text(plain):
    plain.max_seq_length = 8
    long = "the a cat dog sat ran on under mat tree"
    for _ in range(30):
        (once,), (twice,) = (
            tokens(batch, side)
            for batch in [WordRepetitionCollator(plain, rate=1.0)(rows([long]))]
            for side in ("text", "repeated_text")
        )
        assert len(once) == len(twice) == 8
        assert twice[-1] == SEP
        distinct = list(dict.fromkeys(twice[:-1]))
        assert distinct == once[: len(distinct)]


def test_padding_may_be_on_the_left(plain, texts):
    plain.tokenizer.padding_side = "left"
    batch = WordRepetitionCollator(plain, rate=1.0)(rows(texts))
    mask = batch["repeated_text_attention_mask"]
    assert (mask.diff(dim=1) >= 0).all()
    assert (batch["repeated_text_input_ids"][mask == 0] == PAD).all()
    assert mask[:, -1].all()
    assert mask.sum(dim=1).max() == mask.shape[1]


def test_a_text_without_words_stays(plain):
    batch = WordRepetitionCollator(plain, rate=1.0)(rows(["", "the cat"]))
    assert tokens(batch, "repeated_text")[0] == [CLS, SEP]


def test_the_same_seed_gives_the_same_batch(plain, texts):
    batches = []
    for _ in range(2):
        torch.manual_seed(3)
        batches.append(WordRepetitionCollator(plain)(rows(texts))["repeated_text_input_ids"])
    assert torch.equal(*batches)


def test_the_trainer_takes_both_columns(plain, texts, tmp_path):
    seen = []

    class Loss(MultipleNegativesRankingLoss):
        def forward(self, sentence_features, labels):
            seen.append([sorted(column) for column in sentence_features])
            return super().forward(sentence_features, labels)

    loss = Loss(plain)
    options = {"max_steps": 2, "per_device_train_batch_size": 3, "data_collator": WordRepetitionCollator(plain)}
    quiet_trainer(plain, loss, tmp_path, {"text": texts}, **options).train()
    assert seen == [[sorted(plain.preprocess(texts))] * 2] * 2


def test_without_a_limit_no_token_is_lost(plain, monkeypatch):
    monkeypatch.setattr(type(plain), "max_seq_length", None)
    text = "the cat sat on the red mat under the tree"
    widths = {
        WordRepetitionCollator(plain, rate=1.0)([{"text": text}])["repeated_text_input_ids"].shape[1] for _ in range(10)
    }
    assert max(widths) > len(plain.tokenizer(text)["input_ids"])


@pytest.mark.parametrize("rate", [-0.1, 1.1, float("nan")])
def test_a_rate_out_of_range_is_refused(plain, rate):
    with pytest.raises(LossError, match="rate must be from 0 to 1, got"):
        WordRepetitionCollator(plain, rate=rate)


def test_rows_and_models_it_cannot_read_are_refused(plain):
    with pytest.raises(LossError, match="Rows must have exactly one column, of texts"):
        WordRepetitionCollator(plain)([{"a": "x", "b": "y"}])
    flat = SimpleNamespace(preprocess=lambda texts: {"input_ids": torch.ones(7)})
    with pytest.raises(
        UnsupportedModelError, match="must be padded token ids with their attention mask.*got input_ids"
    ):
        WordRepetitionCollator(flat)(rows(["a"]))
