"""What the losses of one size have in common, proved for each of them."""

import copy

import pytest
import sentence_transformers
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import losses as host
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from tokenizers import Tokenizer, models

from loss_cases import ANCHORS, POSITIVES, batch, gradients
from st_plugins import losses
from st_plugins.errors import LossError
from st_plugins.losses.embedding_loss import EmbeddingLoss
from st_plugins.losses.stateful import StatefulLoss
from trainers import quiet_trainer

IS_OLD = int(sentence_transformers.__version__.split(".")[0]) < 6
CLASSES = torch.tensor([0, 1, 2, 2, 1, 0])
GENERATOR = torch.Generator().manual_seed(5)
LABEL_EMBEDDINGS = torch.randn(3, 6, generator=GENERATOR)
CLASS_VECTORS = torch.randn(3, 16, generator=GENERATOR)


def soft(model, **options):
    return losses.SoftContrastiveLoss(model, LABEL_EMBEDDINGS, **options)


def fixed(model, **options):
    return losses.FixedVectorCrossEntropyLoss(model, CLASS_VECTORS, **options)


def guided(model, **options):
    guide = copy.deepcopy(model)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in guide.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return losses.GuidedNegativesLoss(model, guide, temperature=0.1, **options)


# Name -> how to build it, columns of texts, labels.
CASES = {
    "soft": (soft, 2, CLASSES),
    "soft, one column": (soft, 1, CLASSES),
    "fixed": (fixed, 1, CLASSES),
    "mixup": (losses.MixupContrastiveLoss, 2, None),
    "mixup, classes": (losses.MixupContrastiveLoss, 1, CLASSES),
    "orthogonal": (losses.OrthogonalProjectionLoss, 2, None),
    "orthogonal, classes": (losses.OrthogonalProjectionLoss, 1, CLASSES),
    "guided": (guided, 2, None),
}
all_cases = pytest.mark.parametrize(("build", "columns", "labels"), CASES.values(), ids=CASES)
WITH_EMBEDDINGS = {name: case for name, case in CASES.items() if name != "guided"}
with_embeddings = pytest.mark.parametrize(("build", "columns", "labels"), WITH_EMBEDDINGS.values(), ids=WITH_EMBEDDINGS)


def test_every_loss_of_one_size_is_here(plain):
    public = [getattr(losses, name) for name in losses.__all__]
    ours = {thing for thing in public if isinstance(thing, type) and issubclass(thing, EmbeddingLoss)}
    ours = {thing for thing in ours if not issubclass(thing, StatefulLoss)}  # whose value depends on what came before
    assert ours == {type(build(copy.deepcopy(plain))) for build, _, _ in CASES.values()}


@all_cases
def test_cached_gradients_are_the_gradients(plain, build, columns, labels):
    plain.eval().double()
    features = batch(plain)[:columns]
    values, found = [], []
    for mini_batch_size in (None, 4):
        loss = build(plain, mini_batch_size=mini_batch_size)
        torch.manual_seed(2)  # what mixup draws
        value, gradient = gradients(loss, features, labels)
        values.append(value)
        found.append(gradient)
    assert values[0] == pytest.approx(values[1], rel=1e-10)
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        # sentence-transformers 5.7 multiplies the gradients of vectors in float32.
        assert torch.allclose(gradient, found[1][name], atol=1e-7 if IS_OLD else 1e-9), name
    assert max(gradient.abs().max() for gradient in found[0].values()) > 1e-6


@all_cases
def test_a_step_lowers_it(plain, build, columns, labels):
    loss = build(plain)
    plain.eval()

    def value():
        torch.manual_seed(2)
        return loss(batch(plain)[:columns], labels)

    before = value()
    before.backward()
    torch.optim.SGD(plain.parameters(), lr=1e-3).step()
    assert value() < before


@with_embeddings
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_does_not_round_the_cosines(plain, build, columns, labels, dtype):
    embeddings = [torch.randn(6, 16).to(dtype).requires_grad_() for _ in range(columns)]
    loss = build(plain)
    found = []
    for exact in (False, True):
        torch.manual_seed(2)
        given = [column.detach().double() for column in embeddings] if exact else embeddings
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found.append(loss.compute_loss_from_embeddings(given, labels))
    found[0].backward()
    assert found[0].dtype == torch.float32
    assert found[0].item() == pytest.approx(found[1].item(), rel=2e-5)
    assert all(torch.isfinite(column.grad).all() for column in embeddings)


@with_embeddings
def test_a_vector_of_zeros_stays_finite(plain, build, columns, labels):
    embeddings = [torch.randn(6, 16) for _ in range(columns)]
    embeddings[0][0] = 0
    embeddings[0].requires_grad_()
    value = build(plain).compute_loss_from_embeddings(embeddings, labels)
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(embeddings[0].grad).all()


@with_embeddings
@pytest.mark.parametrize("mini_batch_size", [None, pytest.param(4, marks=pytest.mark.slow)])
def test_it_trains_every_size_inside_the_elastic_loss(model, build, columns, labels, mini_batch_size):
    loss = losses.ElasticLoss(model, build(model), sizes=[(2, 8)], mini_batch_size=mini_batch_size)
    _, found = gradients(loss, batch(model)[:columns], labels)
    assert any("layer.0." in name and gradient.abs().max() > 0 for name, gradient in found.items())
    with pytest.raises(LossError, match=r"The base loss must not cache gradients itself, got .*Loss. Pass its"):
        losses.ElasticLoss(model, build(model, mini_batch_size=2))


@pytest.mark.parametrize("mini_batch_size", [4, pytest.param(None, marks=pytest.mark.slow)])
@all_cases
def test_it_is_the_sum_over_dims_inside_the_hosts_matryoshka_loss(plain, build, columns, labels, mini_batch_size):
    plain.eval()
    loss = build(plain, mini_batch_size=mini_batch_size)
    embeddings = [plain(dict(column))["sentence_embedding"].detach() for column in batch(plain)[:columns]]
    torch.manual_seed(2)
    if build is guided:
        taught = torch.stack([loss.guide(dict(column))["sentence_embedding"] for column in batch(plain)], dim=1)
        expected = sum(loss.compute_loss([column[:, :dim] for column in embeddings], taught) for dim in (16, 8))
    else:
        cut = [[torch.nn.functional.normalize(column[:, :dim], dim=1) for column in embeddings] for dim in (16, 8)]
        expected = sum(loss.compute_loss_from_embeddings(narrow, labels) for narrow in cut)
    wrapped = host.MatryoshkaLoss(plain, loss, [16, 8])
    torch.manual_seed(2)
    assert wrapped(batch(plain)[:columns], labels).item() == pytest.approx(expected.item(), rel=1e-4)


@pytest.mark.parametrize("mini_batch_size", [None, 2])
@pytest.mark.parametrize("name", ["soft", "guided"])
def test_embeddings_that_are_not_numbers_stop_the_training(plain, name, mini_batch_size):
    build, columns, labels = CASES[name]
    loss = build(plain, mini_batch_size=mini_batch_size)
    with torch.no_grad():
        plain[0].model.embeddings.word_embeddings.weight.fill_(torch.nan)
    with pytest.raises(LossError, match="The embeddings must be numbers, got NaN"):
        loss(batch(plain)[:columns], labels)


def test_a_loss_that_is_nan_though_its_embeddings_are_not_is_refused(plain, monkeypatch):
    loss = fixed(plain)
    monkeypatch.setattr(loss, "scale", float("nan"))
    with pytest.raises(LossError, match="The loss must be numbers, got NaN"):
        loss(batch(plain)[:1], CLASSES)


@pytest.mark.parametrize("name", ["soft", "soft, one column", "orthogonal, classes", "guided"])
def test_a_first_batch_of_one_is_refused_and_a_later_one_is_not(plain, name):
    build, columns, labels = CASES[name]
    loss = build(plain)
    one = [plain.preprocess(side[:1]) for side in (ANCHORS, POSITIVES)][:columns]
    one_label = None if labels is None else labels[:1]
    with pytest.raises(LossError, match=r"Loss must have more than one text per batch to compare with, got a batch"):
        loss(one, one_label)
    loss(batch(plain)[:columns], labels)
    assert loss(one, one_label).item() == 0


WRONG_LABELS = {
    "none": (None, "one integer per row, the class of its texts, for 6 rows got no labels. Add a column named label"),
    "floats": (torch.rand(6), r"got labels of torch.float32 and shape \(6,\)"),
    "too few": (torch.zeros(5).long(), r"got labels of torch.int64 and shape \(5,\)"),
    "no class": (torch.tensor([0, 1, 2, 3, 0, 0]), "labels from 0 to 2, as it was given 3 classes, got 0 to 3. Num"),
    "negative": (torch.tensor([0, 1, 2, -1, 0, 0]), "got -1 to 2"),
}


@pytest.mark.parametrize(("labels", "message"), WRONG_LABELS.values(), ids=WRONG_LABELS)
@pytest.mark.parametrize("build", [soft, fixed])
def test_labels_that_are_no_classes_are_refused(plain, build, labels, message):
    with pytest.raises(LossError, match=message):
        build(plain)(batch(plain)[:1], labels)


def test_options_are_checked_and_static_models_are_not_cut(plain):
    with pytest.raises(LossError, match="mini_batch_size must be a positive integer or None, got 0"):
        soft(plain, mini_batch_size=0)
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    static = SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=16)], device="cpu")
    assert soft(static, mini_batch_size=None).mini_batch_size is None
    with pytest.raises(
        LossError, match="mini_batch_size must be None for a model with StaticEmbedding, .* got 2. Such"
    ):
        soft(static, mini_batch_size=2)


@all_cases
def test_the_model_card_can_say_how_it_was_trained(plain, build, columns, labels):
    card = build(plain, mini_batch_size=8).get_config_dict()
    assert card["mini_batch_size"] == 8
    assert card["gather_across_devices"] is False
    assert all(isinstance(value, (str, int, float)) for value in card.values())
    assert len(card) > 2


@pytest.mark.parametrize(
    ("name", "mini_batch_size"),
    [
        ("soft", None),
        *(
            pytest.param(name, mini_batch_size, marks=pytest.mark.slow)
            for name in ("fixed", "mixup", "orthogonal, classes", "guided")
            for mini_batch_size in (None, 4)
        ),
    ],
)
def test_the_ordinary_trainer_trains_it(plain, tmp_path, name, mini_batch_size):
    build, columns, labels = CASES[name]
    before = copy.deepcopy(plain.state_dict())
    rows = {"anchor": ANCHORS, "positive": POSITIVES}
    dataset = {column: rows[column] for column in list(rows)[:columns]}
    if labels is not None:
        dataset["label"] = labels.tolist()
    loss = build(plain, mini_batch_size=mini_batch_size)
    fixed_before = {key: value.clone() for key, value in loss.named_buffers() if not key.startswith("model.")}
    options = {"max_steps": 1, "per_device_train_batch_size": 6, "learning_rate": 1e-2}
    quiet_trainer(plain, loss, tmp_path, dataset, **options).train()
    assert any(not torch.equal(value, before[key]) for key, value in plain.state_dict().items())
    assert all(torch.equal(dict(loss.named_buffers())[key], value) for key, value in fixed_before.items())
