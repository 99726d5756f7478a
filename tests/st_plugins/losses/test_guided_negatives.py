import math

import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import losses as host
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from tokenizers import Tokenizer, models, pre_tokenizers

import reference
from loss_cases import ANCHORS, POSITIVES, batch, gradients, tuned
from st_plugins.errors import LossError
from st_plugins.losses import ElasticLoss
from st_plugins.losses.guided_negatives import GuidedNegativesLoss

NEAR = ["a dog sat", "the cat", "a red mat", "it is fast", "blue tree", "a cat"]


@pytest.fixture
def guide(plain):
    """As the model, with other weights."""
    return tuned(plain, seed=1)


@pytest.fixture
def static():
    """A guide with another tokenizer, and without a transformer."""
    vocabulary = {word: index for index, word in enumerate(["[UNK]", "cat", "dog", "the", "a", "mat"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=8)], device="cpu")


@pytest.mark.parametrize("columns", [2, 3, 5])
@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({}, {}),
        ({"margin": 0.1}, {}),
        ({"margin": -0.3}, {}),
        ({"margin": 0.2, "margin_strategy": "relative"}, {"relative": True}),
        ({"contrast_anchors": False}, {"anchors": False}),
        ({"contrast_positives": False}, {"positives": False}),
    ],
)
def test_the_value_is_that_of_the_formula(plain, guide, columns, options, named):
    texts = [torch.randn(5, 6).double() for _ in range(columns)]
    guides = [torch.randn(5, 4).double() for _ in range(columns)]
    loss = GuidedNegativesLoss(plain, guide, temperature=0.2, **options)
    expected = reference.guided_negatives(
        [x.tolist() for x in texts], [x.tolist() for x in guides], 0.2, options.get("margin", 0), **named
    )
    assert loss.compute_loss(texts, torch.stack(guides, dim=1)).item() == pytest.approx(expected, rel=1e-12)


def test_a_batch_of_identical_pairs_is_perfect_where_the_hosts_stays_at_log_3(plain, guide):
    same = [plain.preprocess(ANCHORS), plain.preprocess(ANCHORS)]
    plain.eval()
    # So small a temperature that texts which are not the same do not count.
    theirs = host.GISTEmbedLoss(plain, guide, temperature=1e-4)(same, None)
    assert theirs.item() == pytest.approx(math.log(3), abs=1e-2)
    alone = host.GISTEmbedLoss(plain, guide, temperature=1e-4, contrast_anchors=False, contrast_positives=False)
    assert alone(same, None).item() == pytest.approx(0, abs=1e-2)
    assert GuidedNegativesLoss(plain, guide, temperature=1e-4)(same).item() == pytest.approx(0, abs=1e-2)


def test_rows_that_come_twice_are_no_negatives(plain, guide):
    twice = [plain.preprocess([side[0]] * 4) for side in (ANCHORS, POSITIVES)]
    plain.eval()
    assert host.GISTEmbedLoss(plain, guide)(twice, None).item() >= math.log(2)
    # One text more, as a batch of which nothing is kept is at 0 without having compared.
    loss = GuidedNegativesLoss(plain, guide)
    loss(batch(plain))
    assert loss(twice).item() == 0


def test_a_text_is_not_compared_with_itself_whatever_the_guide_says(plain, guide):
    """A margin below 0 keeps texts that are more similar than the positive; with itself a text is that."""
    columns = [torch.eye(2), torch.tensor([[1.0, 1.0], [-1.0, 1.0]])]
    guides = torch.tensor([[[1.0, 0.0], [1.0, 0.0]], [[-1.0, 0.0], [-1.0, 0.0]]])
    value = GuidedNegativesLoss(plain, guide, temperature=1.0, margin=-1.0).compute_loss(columns, guides)
    own = 1 / math.sqrt(2)
    first = math.exp(own) + math.exp(-own) + 1 + 1  # its pair, the other positive, the other anchor, both positives
    second = math.exp(own) + math.exp(own) + 1 + 1
    assert value.item() == pytest.approx((math.log(first) + math.log(second)) / 2 - own)


def test_without_anything_to_refuse_it_is_the_hosts_loss(plain, guide):
    features = [plain.preprocess(column) for column in (ANCHORS, POSITIVES, NEAR)]
    plain.eval()
    ours, found = gradients(GuidedNegativesLoss(plain, guide, temperature=0.1, margin=-0.001), features)
    theirs, expected = gradients(host.GISTEmbedLoss(plain, guide, temperature=0.1, margin=-0.001), features)
    # Where no pair is as alike as that, the host refuses a text's cosine with itself too.
    guided = [guide.encode(side, convert_to_tensor=True) for side in (ANCHORS, POSITIVES)]
    assert (guided[0] * guided[1]).sum(dim=1).max() < 0.999
    assert ours == pytest.approx(theirs, rel=1e-5)
    for name, gradient in expected.items():
        assert torch.allclose(found[name], gradient, atol=1e-5), name


def test_a_guide_that_reads_other_tokens_is_given_the_texts(plain, static):
    loss = GuidedNegativesLoss(plain, static, temperature=0.1)
    plain.eval()
    value = loss(batch(plain))
    guides = [static.encode(side, convert_to_tensor=True) for side in (ANCHORS, POSITIVES)]
    columns = [plain.encode(side, convert_to_tensor=True) for side in (ANCHORS, POSITIVES)]
    assert not loss.reads_tokens
    assert value.item() == pytest.approx(loss.compute_loss(columns, torch.stack(guides, dim=1)).item(), rel=1e-5)


def test_unpadded_texts_are_read_back_too(plain, static):
    loss = GuidedNegativesLoss(plain, static)
    padded = plain.preprocess(ANCHORS)
    lengths = padded["attention_mask"].sum(dim=1)
    flat = {
        "input_ids": padded["input_ids"][padded["attention_mask"].bool()][None],
        "cu_seq_lens_q": torch.cat([torch.zeros(1), lengths.cumsum(dim=0)]).int(),
    }
    found, expected = loss._for_guide(flat), static.preprocess(ANCHORS)
    assert torch.equal(found["input_ids"], expected["input_ids"])
    assert torch.equal(found["offsets"], expected["offsets"])


def test_a_guide_of_shorter_texts_reads_for_itself(plain, guide):
    guide.max_seq_length = 8
    assert not GuidedNegativesLoss(plain, guide).reads_tokens
    guide.max_seq_length = 64
    assert GuidedNegativesLoss(plain, guide).reads_tokens


@pytest.mark.parametrize("mini_batch_size", [None, 4])
def test_the_guide_learns_nothing_and_has_no_dropout(plain, guide, mini_batch_size):
    loss = GuidedNegativesLoss(plain, guide, mini_batch_size=mini_batch_size)
    plain.eval()
    value, found = gradients(loss, batch(plain))
    loss.train()
    plain.eval()
    assert loss(batch(plain)).item() == pytest.approx(value, rel=1e-5)
    assert max(gradient.abs().max() for gradient in found.values()) > 0
    assert all(parameter.grad is None for parameter in guide.parameters())


def test_the_elastic_loss_refuses_it_by_name(model, guide):
    with pytest.raises(LossError, match="must have compute_loss_from_embeddings, GuidedNegativesLoss has not"):
        ElasticLoss(model, GuidedNegativesLoss(model, guide))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0}, "temperature must be > 0, got 0"),
        ({"margin": float("nan")}, "margin must be a finite number, got nan"),
        ({"margin_strategy": "none"}, 'margin_strategy must be "absolute" or "relative", got \'none\''),
    ],
)
def test_options_out_of_range_are_refused(plain, guide, options, message):
    with pytest.raises(LossError, match=message):
        GuidedNegativesLoss(plain, guide, **options)


def test_guides_and_batches_that_cannot_be_used_are_refused(plain, guide, static):
    with pytest.raises(LossError, match="guide must have weights of its own, this one shares some with the model"):
        GuidedNegativesLoss(plain, plain)
    with pytest.raises(LossError, match="guide must have the tokenizer of the model, or .* got Tokenizer. Take"):
        GuidedNegativesLoss(static, guide)
    with pytest.raises(LossError, match=r"must have columns \(anchor, positive, negative, ...\), got 1. For single"):
        GuidedNegativesLoss(plain, guide)([plain.preprocess(ANCHORS)])
