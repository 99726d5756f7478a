import copy
import math

import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import losses as host
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from tokenizers import Tokenizer, models
from torch.nn.functional import normalize

import families
import reference
import st_plugins
from families import but_slow
from loss_cases import batch, gradients
from st_plugins.errors import LossError, UnsupportedModelError
from st_plugins.losses import ManifoldInstanceMixupLoss
from st_plugins.losses.manifold_instance_mixup import (
    log_weighted_sum,
    mixed_contrastive,
    mixed_embeddings,
    weighted_contrastive,
)
from st_plugins.views import shallow_copy

LISTED = [name for name in families.available() if name != "albert"]
PARTNERS = torch.tensor([2, 0, 1, 4, 3, 5])
SHARES = torch.tensor([0.5, 0.6, 0.9, 1.0, 0.75, 0.8])


@torch.no_grad()
def test_texts_are_mixed_in_front_of_the_block_and_where_both_have_tokens(plain):
    """Block by block on the network itself, with masks built here."""
    plain.eval().double()
    features = batch(plain)[0]
    network, mask = plain[0].model, features["attention_mask"]
    both = mask * mask[PARTNERS]
    assert (both.sum(1) < mask.sum(1)).any()
    hidden = {"attention_mask": (1 - both[:, None, None, :]).double() * torch.finfo(torch.float64).min}
    inputs = {"input_ids": features["input_ids"], "attention_mask": mask}
    layers = network(**inputs, output_hidden_states=True).hidden_states
    for index in range(4):
        states = layers[index]
        states = SHARES.double()[:, None, None] * states + (1 - SHARES.double())[:, None, None] * states[PARTNERS]
        for block in network.encoder.layer[index:]:
            states = block(states, **hidden)
            states = states[0] if isinstance(states, tuple) else states
        expected = normalize((states * both[..., None]).sum(1) / both.sum(1, keepdim=True), dim=1)
        found = mixed_embeddings(plain, features, index, PARTNERS, SHARES)
        assert torch.allclose(found, expected, atol=1e-12)


def in_a_pipeline(plain, name):
    return SentenceTransformer(
        modules=[shallow_copy(plain[0], model=families.build(name)), st_plugins.modules.AttentionPooling(32)],
        device="cpu",
    ).eval()


@torch.no_grad()
@pytest.mark.parametrize("name", but_slow(LISTED, "bert", "deberta-v2", "modernbert", "t5", "gemma3_text"))
def test_mixed_with_itself_a_text_is_what_it_was_in_every_family(plain, name):
    model = in_a_pipeline(plain, name)
    ids, mask = families.batch()
    features = {"input_ids": ids, "attention_mask": mask}
    expected = model(dict(features))["sentence_embedding"]
    for index in (0, 3):
        found = mixed_embeddings(model, features, index, torch.arange(3), torch.full((3,), 0.6))
        assert torch.allclose(found, expected, atol=1e-5)
    mixed = mixed_embeddings(model, features, 2, torch.tensor([1, 0, 2]), torch.full((3,), 0.6))
    assert not torch.allclose(mixed[:2], expected[:2], atol=1e-3)
    assert torch.allclose(mixed[2], expected[2], atol=1e-5)


@torch.no_grad()
def test_an_elastic_model_mixes_as_the_plain_one_also_if_no_layer_is_trained(plain):
    features = batch(plain)[0]
    elastic = st_plugins.elastic(plain)
    for index in (0, 2, 3):
        expected = mixed_embeddings(plain, features, index, PARTNERS, SHARES)
        assert torch.allclose(mixed_embeddings(elastic, features, index, PARTNERS, SHARES), expected, atol=1e-6)


def test_the_value_is_that_of_the_formula():
    first, second = torch.randn(6, 5).double(), torch.randn(6, 5).double()
    expected = reference.manifold_instance_mixup(
        first.tolist(), second.tolist(), PARTNERS.tolist(), SHARES.tolist(), temperature=0.3
    )
    found = mixed_contrastive(first, second, PARTNERS, SHARES.double(), temperature=0.3)
    assert found.item() == pytest.approx(expected, rel=1e-6)  # shares were single precision
    expected = reference.weighted_contrastive(first.tolist(), second.tolist(), temperature=0.3)
    assert weighted_contrastive(first, second, temperature=0.3).item() == pytest.approx(expected, rel=1e-12)


def test_a_value_by_hand():
    """Two pairs at right angles, temperature 1: n = 1, so c_ii = 1 - log(1 + e) and c_ij = -log(1 + e)."""
    found = mixed_contrastive(torch.eye(2), torch.eye(2), torch.tensor([1, 0]), torch.tensor([0.75, 0.75]), 1.0)
    assert found.item() == pytest.approx(math.log(1 + math.e) - 0.75, rel=1e-6)


def test_equal_negatives_have_weight_one_and_others_weigh_more():
    """n is the plain sum if all are equal, and never less."""
    everyone = torch.ones(5, 7, dtype=torch.bool)
    equal = torch.full((5, 7), 0.3).double()
    assert torch.allclose(log_weighted_sum(equal, everyone).exp(), equal.exp().sum(1), rtol=1e-12)
    scores = 3 * torch.randn(5, 7).double()
    some = torch.rand(5, 7) < 0.6
    some[:, 0] = True
    plain_sum = (scores.exp() * some).sum(1)
    assert (log_weighted_sum(scores, some).exp() >= plain_sum * (1 - 1e-12)).all()
    weights = scores.exp() / ((scores.exp() * some).sum(1) / some.sum(1))[:, None]
    expected = (weights * scores.exp() * some).sum(1)
    assert torch.allclose(log_weighted_sum(scores, some).exp(), expected, rtol=1e-12)


def test_at_share_one_the_partner_does_not_count():
    first, second = torch.randn(6, 5).double(), torch.randn(6, 5).double()
    values = [mixed_contrastive(first, second, p, torch.ones(6).double(), 0.2) for p in (PARTNERS, PARTNERS.flip(0))]
    assert torch.equal(*values)


def test_with_itself_as_partner_the_share_does_not_count():
    first, second = torch.randn(6, 5).double(), torch.randn(6, 5).double()
    itself = torch.arange(6)
    values = [mixed_contrastive(first, second, itself, s, 0.2) for s in (SHARES.double(), torch.ones(6).double())]
    assert values[0].item() == pytest.approx(values[1].item(), rel=1e-12)
    scores = normalize(first, dim=1) @ normalize(second, dim=1).T / 0.2
    logits = torch.stack([scores.diagonal(), log_weighted_sum(scores, ~torch.eye(6, dtype=torch.bool))], dim=1)
    assert values[1].item() == pytest.approx(-logits.log_softmax(dim=1)[:, 0].mean().item(), rel=1e-12)


def test_gradients_are_those_of_the_formula():
    columns = [torch.randn(4, 3, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    partners, shares = torch.tensor([1, 2, 3, 0]), torch.tensor([0.5, 0.7, 0.9, 0.6]).double()
    assert torch.autograd.gradcheck(lambda a, b: mixed_contrastive(a, b, partners, shares, 0.5), columns)
    assert torch.autograd.gradcheck(lambda a, b: weighted_contrastive(a, b, 0.5), columns)


def test_every_weight_of_the_model_is_trained_through_both_texts(plain):
    """The gradient of the mixture by central differences, in the first block's and in the word embeddings."""
    plain.eval().double()
    features = batch(plain)[0]
    direction = torch.randn(6, 16).double()

    def value():
        return (mixed_embeddings(plain, features, 2, PARTNERS, SHARES) * direction).sum()

    value().backward()
    network = plain[0].model
    for weight, place in ((network.encoder.layer[0].output.dense.weight, (3, 5)),
                          (network.encoder.layer[3].output.dense.weight, (2, 1)),
                          (network.embeddings.word_embeddings.weight, (4, 2))):  # fmt: skip
        found, ends = weight.grad[place].item(), []
        for step in (1e-5, -2e-5, 1e-5):
            with torch.no_grad():
                weight[place] += step
                ends.append(value().item())
        assert found == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-5, abs=1e-8)


@pytest.mark.parametrize("mixing", [True, False])
def test_a_step_lowers_it_and_the_model_stays_a_plain_one(plain, mixing):
    loss = ManifoldInstanceMixupLoss(plain.eval(), mixing=mixing)
    names = [name for name, _ in plain.named_modules()]

    def value():
        torch.manual_seed(2)
        return loss(batch(plain))

    before = value()
    before.backward()
    assert [name for name, _ in plain.named_modules()] == names
    assert type(plain[0].model.encoder.layer[0]).__name__ == "BertLayer"
    torch.optim.SGD(plain.parameters(), lr=1e-3).step()
    assert value() < before


def test_without_mixing_it_is_the_loss_of_the_embeddings(plain):
    features = batch(plain.eval())
    first, second = (plain(dict(column))["sentence_embedding"] for column in features)
    found = ManifoldInstanceMixupLoss(plain, mixing=False, temperature=0.2)(features)
    assert found.item() == pytest.approx(weighted_contrastive(first, second, 0.2).item(), rel=1e-6)


def test_blocks_partners_and_shares_are_drawn_anew_from_the_generator_of_torch(plain, monkeypatch):
    drawn = []

    def noted(model, features, index, partners, shares):
        drawn.append((index, tuple(partners.tolist()), tuple(shares.tolist())))
        return mixed_embeddings(model, features, index, partners, shares)

    monkeypatch.setattr("st_plugins.losses.manifold_instance_mixup.mixed_embeddings", noted)
    loss = ManifoldInstanceMixupLoss(plain.eval())
    torch.manual_seed(3)
    values = [loss(batch(plain)).item() for _ in range(16)]
    assert len(set(values)) == 16
    assert {index for index, _, _ in drawn} == {0, 1, 2, 3}
    assert all(0.5 <= share <= 1 for _, _, shares in drawn for share in shares)
    assert all(sorted(partners) == list(range(6)) for _, partners, _ in drawn)
    torch.manual_seed(3)
    assert [loss(batch(plain)).item() for _ in range(16)] == values


@pytest.mark.parametrize("mixing", [True, False])
def test_a_last_batch_of_one_pair_is_zero_and_a_first_one_is_refused(plain, mixing):
    one = [plain.preprocess(["a cat"]), plain.preprocess(["the cat"])]
    loss = ManifoldInstanceMixupLoss(plain, mixing=mixing)
    with pytest.raises(LossError, match="ManifoldInstanceMixupLoss must have more than one text per batch"):
        loss(one)
    loss(batch(plain))
    value, found = gradients(loss, one)
    assert value == 0
    assert all(torch.isfinite(gradient).all() for gradient in found.values())


@pytest.mark.parametrize("mixing", [True, False])
def test_a_model_in_half_precision_has_its_loss_in_single(plain, mixing):
    values = []
    for dtype in (torch.float64, torch.bfloat16):
        loss = ManifoldInstanceMixupLoss(copy.deepcopy(plain).eval().to(dtype), mixing=mixing)
        torch.manual_seed(2)
        values.append(loss(batch(plain)))
    assert values[1].dtype == torch.float32
    assert values[1].item() == pytest.approx(values[0].item(), rel=0.2)


def test_what_cannot_be_mixed_is_refused_by_name(plain):
    words = Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    static = SentenceTransformer(modules=[StaticEmbedding(words, embedding_dim=4)], device="cpu")
    with pytest.raises(UnsupportedModelError, match="in whose layers texts are mixed, got one that begins with Static"):
        ManifoldInstanceMixupLoss(static)
    features = {"input_ids": torch.ones(1, 4, dtype=torch.long), "cu_seq_lens_q": torch.tensor([0, 4])}
    with pytest.raises(UnsupportedModelError, match="Mixing texts needs padded inputs with their attention mask, got"):
        mixed_embeddings(plain, features, 0, torch.zeros(1, dtype=torch.long), torch.ones(1))
    ids, mask = families.batch()
    albert = in_a_pipeline(plain, "albert")
    with pytest.raises(UnsupportedModelError, match="AlbertModel applies one block 4 times"):
        mixed_embeddings(albert, {"input_ids": ids, "attention_mask": mask}, 0, torch.arange(3), torch.ones(3))


def test_a_loss_that_replaces_the_models_forward_is_refused_around_it(plain):
    wrapped = host.MatryoshkaLoss(plain, ManifoldInstanceMixupLoss(plain), [16, 8])
    with pytest.raises(LossError, match="must call the model itself, got one whose forward another loss has replaced"):
        wrapped(batch(plain), None)
    features = batch(plain.eval())[0]
    left = mixed_embeddings(plain, features, 2, PARTNERS, SHARES)  # what it leaves behind it, a bound forward, is fine
    assert not torch.allclose(left, plain(dict(features))["sentence_embedding"], atol=1e-3)
    assert torch.equal(left, mixed_embeddings(SentenceTransformer(modules=[*plain]), features, 2, PARTNERS, SHARES))


def test_columns_labels_and_options_that_do_not_fit_are_refused(plain):
    loss = ManifoldInstanceMixupLoss(plain)
    with pytest.raises(LossError, match="anchors and positives, without labels, got 1 columns without labels"):
        loss(batch(plain)[:1])
    with pytest.raises(LossError, match="got 2 columns with labels"):
        loss(batch(plain), torch.arange(6))
    with pytest.raises(LossError, match="temperature must be > 0, got 0"):
        ManifoldInstanceMixupLoss(plain, temperature=0)
    with pytest.raises(LossError, match="mix_alpha must be > 0, got -1"):
        ManifoldInstanceMixupLoss(plain, mix_alpha=-1)
    assert loss.get_config_dict() == {"mixing": True, "temperature": 0.05, "mix_alpha": 1.0}
