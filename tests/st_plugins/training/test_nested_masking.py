import pytest
import torch
from transformers import CanineTokenizer

import masking_cases
from masking_cases import SENTENCES
from st_plugins.errors import LossError, UnsupportedModelError
from st_plugins.losses import MaskedAutoencoderLoss
from st_plugins.training import NestedMaskingCollator
from st_plugins.training.nested_masking import nested_words

MASK = 4


@pytest.fixture(scope="module")
def masked_model(tmp_path_factory):
    return masking_cases.build(tmp_path_factory.mktemp("masked"))


def rows(texts):
    return [{"text": text} for text in texts]


def clean_ids(batch):
    """The ids before anything was hidden: the labels say what was there."""
    labels = batch["text_decoder_labels"]
    return torch.where(labels >= 0, labels, batch["text_decoder_ids"])


def test_the_batch_is_the_models_own_with_two_maskings(masked_model):
    batch = NestedMaskingCollator(masked_model)(rows(SENTENCES))
    plain = masked_model.preprocess(SENTENCES)
    own = {f"text_{name}" for name in plain}
    assert set(batch) == own | {"text_encoder_labels", "text_decoder_ids", "text_decoder_labels"}
    assert torch.equal(clean_ids(batch), plain["input_ids"])
    assert torch.equal(batch["text_attention_mask"], plain["attention_mask"])
    for ids, labels in (("input_ids", "encoder_labels"), ("decoder_ids", "decoder_labels")):
        ids, labels = batch[f"text_{ids}"], batch[f"text_{labels}"]
        assert torch.equal(ids[labels < 0], plain["input_ids"][labels < 0])
        assert torch.equal(labels[labels >= 0], plain["input_ids"][labels >= 0])
        assert set(labels[labels < 0].tolist()) == {-100}
        assert (labels >= 0).any(dim=1).all()


def test_whole_words_are_hidden_and_those_of_the_encoder_from_the_decoder_too(masked_model):
    collator = NestedMaskingCollator(masked_model)
    continues = [token.startswith("##") for token in masked_model.tokenizer.convert_ids_to_tokens(range(32))]
    assert sum(continues) == 3
    pieces = 0
    for _ in range(200):
        batch = collator(rows(SENTENCES))
        ids = clean_ids(batch).tolist()
        for side in ("encoder", "decoder"):
            hidden = (batch[f"text_{side}_labels"] >= 0).tolist()
            for tokens, marks in zip(ids, hidden, strict=True):
                for position, token in enumerate(tokens):
                    if continues[token]:
                        assert marks[position] == marks[position - 1]
                        pieces += marks[position]
        assert ((batch["text_encoder_labels"] >= 0) <= (batch["text_decoder_labels"] >= 0)).all()
    assert pieces > 100


def test_the_shares_are_met_over_many_texts(masked_model):
    text = " ".join("the cat sat on the mat and a dog ran fast to it under the tree in red walking".split())
    found = {}
    for shares in ((0.2, 0.4), (0.15, 0.5)):
        collator = NestedMaskingCollator(masked_model, encoder_share=shares[0], decoder_share=shares[1])
        batches = [collator(rows([text] * 20)) for _ in range(20)]
        tokens = 20  # 18 words of one piece, one of two
        for side, share in zip(("encoder", "decoder"), shares, strict=True):
            hidden = torch.cat([batch[f"text_{side}_labels"] >= 0 for batch in batches])
            assert hidden.sum(dim=1).max() <= round(share * tokens)
            found[shares, side] = hidden.float().sum().item() / (400 * tokens)
            assert found[shares, side] == pytest.approx(share, abs=0.01)
            # Every word has the same chance: five standard deviations of 400 draws.
            rates = hidden[:, 1:19].float().mean(dim=0)
            assert (rates - share).abs().max() < 5 * (share * (1 - share) / 400) ** 0.5
    assert len(set(found.values())) == 4


def test_hidden_tokens_are_replaced_kept_or_confused_as_in_the_paper(masked_model):
    collator = NestedMaskingCollator(masked_model)
    batches = [collator(rows(SENTENCES * 20)) for _ in range(20)]
    for ids, labels in (("input_ids", "encoder_labels"), ("decoder_ids", "decoder_labels")):
        labels = torch.cat([batch[f"text_{labels}"].flatten() for batch in batches])
        shown = torch.cat([batch[f"text_{ids}"].flatten() for batch in batches])[labels >= 0]
        labels = labels[labels >= 0]
        size = len(masked_model.tokenizer)
        assert len(labels) > 3000
        assert (shown == MASK).float().mean().item() == pytest.approx(0.8 + 0.1 / size, abs=0.03)
        assert (shown == labels).float().mean().item() == pytest.approx(0.1 + 0.1 / size, abs=0.03)
        confused = shown[(shown != MASK) & (shown != labels)]
        assert set(confused.tolist()) == set(range(size)) - {MASK}
    # Drawn apart: what the encoder still sees of a hidden token, the decoder mostly does not.
    both = torch.cat([(b["text_encoder_labels"] >= 0).flatten() for b in batches])
    seen = torch.cat([(b["text_input_ids"] != MASK).flatten() for b in batches])[both]
    also = torch.cat([(b["text_decoder_ids"] != MASK).flatten() for b in batches])[both]
    assert (seen & also).float().mean().item() == pytest.approx(0.04, abs=0.02)


def test_special_tokens_unknown_words_and_padding_are_never_hidden(masked_model):
    collator = NestedMaskingCollator(masked_model, encoder_share=0.98, decoder_share=0.99)
    batch = collator(rows(["the zebra sat", "a [SEP] dog and a cat on the mat of it", "cats"]))
    ids = clean_ids(batch)
    assert (ids == 1).sum() == 1
    hidden = batch["text_decoder_labels"] >= 0
    assert not hidden[ids < 5].any()
    assert not hidden[batch["text_attention_mask"] == 0].any()
    assert hidden[ids >= 5].float().mean() > 0.8


def test_the_same_seed_hides_the_same_words(masked_model):
    collator = NestedMaskingCollator(masked_model)
    batches = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        batches.append(collator(rows(SENTENCES)))
    assert all(torch.equal(batches[0][name], batches[1][name]) for name in batches[0] if name != "text_modality")
    assert not torch.equal(batches[0]["text_decoder_labels"], batches[2]["text_decoder_labels"])


def test_a_text_of_one_long_word_is_hidden_and_an_empty_one_is_not(masked_model):
    batch = NestedMaskingCollator(masked_model)(rows(["jumping", "", "zebra"]))
    for side in ("encoder", "decoder"):
        assert (batch[f"text_{side}_labels"] >= 0).sum(dim=1).tolist() == [2, 0, 0]


def test_words_are_counted_by_hand():
    words = [[0, 1, 2], [3], [4], [5], [6], [7], [8], [9]]
    for _ in range(200):
        light, heavy = nested_words(words, 0.2, 0.4)
        assert len(light) == 2  # three pieces never fit into two
        assert 0 not in light
        assert len(heavy) == 4
        assert set(light) < set(heavy)
        assert ({0, 1, 2} & set(heavy)) in (set(), {0, 1, 2})
    assert nested_words([], 0.2, 0.4) == ([], [])
    assert nested_words([[1, 2, 3]], 0.2, 0.4) == ([1, 2, 3], [1, 2, 3])
    assert sorted(nested_words(words, 0.5, 0.99)[1]) == list(range(10))


def test_real_word_pieces_stay_together(minilm):
    collator = NestedMaskingCollator(minilm)
    text = "tokenizers like embeddings, and misspeling too; reranking rerankers reranks"
    for _ in range(20):
        batch = collator(rows([text]))
        labels = batch["text_decoder_labels"][0]
        tokens = minilm.tokenizer.convert_ids_to_tokens(clean_ids(batch)[0])
        assert sum(token.startswith("##") for token in tokens) >= 5
        for position, token in enumerate(tokens):
            if token.startswith("##"):
                assert (labels[position] >= 0) == (labels[position - 1] >= 0)


def test_the_name_of_the_dataset_is_passed_on(masked_model):
    batch = NestedMaskingCollator(masked_model)([{"body": "the cat", "dataset_name": "news"}])
    assert batch["dataset_name"] == "news"
    assert "body_decoder_ids" in batch
    assert not [name for name in batch if name.endswith("_input_ids") and name != "body_input_ids"]


@pytest.mark.parametrize("shares", [(0, 0.4), (0.4, 0.2), (0.2, 1), (float("nan"), 0.4)])
def test_shares_out_of_range_are_refused(masked_model, shares):
    with pytest.raises(LossError, match=r"0 < encoder_share <= decoder_share < 1, got encoder_share="):
        NestedMaskingCollator(masked_model, encoder_share=shares[0], decoder_share=shares[1])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "a cat", "label": 1}, r"exactly one column, of texts, got columns \['text', 'label'\]"),
        ({"text": None}, r"with \['NoneType'\]. Choose it with dataset.select_columns"),
        ({"dataset_name": "news"}, r"got columns \[\]"),
    ],
)
def test_rows_of_another_shape_are_refused(masked_model, row, message):
    with pytest.raises(LossError, match=message):
        NestedMaskingCollator(masked_model)([row])


def test_a_tokenizer_without_a_mask_token_is_refused_and_the_advice_helps(model, texts):
    with pytest.raises(UnsupportedModelError, match="must have a mask token, this .* has none. Add one: model.token"):
        NestedMaskingCollator(model)
    model.tokenizer.add_special_tokens({"mask_token": "[MASK]"})
    model[0].model.resize_token_embeddings(len(model.tokenizer))
    batch = NestedMaskingCollator(model)(rows(texts))
    loss = MaskedAutoencoderLoss(model)
    assert torch.isfinite(loss([{name.removeprefix("text_"): value for name, value in batch.items()}]))


def test_a_slow_tokenizer_is_refused(tmp_path):
    slow = masking_cases.build(tmp_path)
    slow[0].processor = CanineTokenizer()
    with pytest.raises(UnsupportedModelError, match="which tokens form a word, this CanineTokenizer does not"):
        NestedMaskingCollator(slow)


def test_a_tokenizer_that_splits_no_words_is_refused(tmp_path):
    unsplit = masking_cases.build(tmp_path)
    unsplit[0].processor = masking_cases.tokenizer(splits_words=False)
    with pytest.raises(UnsupportedModelError, match="one that splits texts into words"):
        NestedMaskingCollator(unsplit)
