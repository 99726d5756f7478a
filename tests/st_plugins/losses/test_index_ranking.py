"""Queries and centroids learn to rank documents whose codes stay."""

import copy
import math

import numpy as np
import pytest
import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments

from loss_cases import ANCHORS
from st_plugins.compression import faiss_index
from st_plugins.errors import LossError, UnsupportedModelError
from st_plugins.losses import IndexRankingLoss
from st_plugins.modules import ProductQuantization

# No two documents alike, so that there are no ties: the codes of ten, four parts each, below eight.
CODES = torch.randint(8, (10, 4), generator=torch.Generator().manual_seed(5))
RELEVANT = [{0}, {1, 9}, {2}, {3}, {4, 7}, {5}]


def rounded(plain, **options):
    module = ProductQuantization(16, parts=4, centroids=8, **options)
    return SentenceTransformer(modules=[*plain.children(), module], device="cpu", similarity_fn_name="dot").eval()


@pytest.fixture
def rounding(plain):
    return rounded(plain)


def loss_of(model, relevant=RELEVANT, **options):
    return IndexRankingLoss(model, CODES, relevant, **options)


def documents_of(model):
    """What the codes stand for, part by part."""
    codebooks = model[-1].codebooks.detach()
    return torch.stack([torch.cat([codebooks[part, code] for part, code in enumerate(row)]) for row in CODES.tolist()])


def of_queries(loss, queries=ANCHORS, labels=None):
    labels = range(len(queries)) if labels is None else labels
    return loss([loss.model.preprocess(queries)], torch.tensor(list(labels)))


def slowly(queries, documents, relevant, candidates, cut, scale):
    """The formula, with lists."""
    total = 0.0
    for query, right in zip(queries, relevant, strict=True):
        scores = [float(np.dot(query, document)) for document in documents]
        listed = sorted(range(len(documents)), key=lambda n: -scores[n])[:candidates]
        listed += sorted(right - set(listed))
        rank = {n: place + 1 for place, n in enumerate(listed)}
        gain = {n: 1 / rank[n] if cut is None or rank[n] <= cut else 0.0 for n in listed}
        terms = [
            abs(gain[p] - gain[n]) * math.log(1 + math.exp(scale * (scores[n] - scores[p])))
            for p in right
            for n in listed
            if n not in right
        ]
        total += sum(terms) / max(len(terms), 1)
    return total / len(queries)


@pytest.mark.parametrize(("candidates", "cut"), [(200, None), (3, None), (6, 2), (1, None)])
def test_it_is_the_formula(rounding, candidates, cut):
    loss = loss_of(rounding, candidates=candidates, cut=cut, scale=5.0)
    queries = rounding.encode_query(ANCHORS)
    expected = slowly(queries, documents_of(rounding).numpy(), RELEVANT, candidates, cut, 5.0)
    assert of_queries(loss).item() == pytest.approx(expected, rel=1e-5)


def test_two_documents_by_hand():
    """Scores 1 and 0, the right one second: |1/2 - 1/1| log(1 + exp(1 - 0))."""
    module = ProductQuantization(2, parts=1, centroids=2)
    module.rotate.weight.data = torch.eye(2)
    module.codebooks.data = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    loss = IndexRankingLoss(SentenceTransformer(modules=[module]), torch.tensor([[0], [1]]), [{1}], scale=1.0)
    found = loss([{"sentence_embedding": torch.tensor([[2.0, 0.0]])}], torch.tensor([0]))
    assert found.item() == pytest.approx(0.5 * math.log(1 + math.e), rel=1e-6)


def test_gradients_are_those_of_finite_differences(rounding):
    """Between changes of rank the loss is smooth; centroids that no document uses get no gradient."""
    rounding = rounding.double()
    loss = loss_of(rounding, scale=3.0)
    codebooks = rounding[-1].codebooks
    of_queries(loss).backward()
    step = 1e-6
    for part, centroid, place in [(0, int(loss.codes[0, 0]), 1), (3, int(loss.codes[4, 3]), 2)]:
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                codebooks[part, centroid, place] += sign * step
                values.append(of_queries(loss).item())
                codebooks[part, centroid, place] -= sign * step
        expected = (values[0] - values[1]) / (2 * step)
        assert float(codebooks.grad[part, centroid, place]) == pytest.approx(expected, rel=1e-5, abs=1e-9)
    used = torch.zeros(4, 8, dtype=torch.bool)
    used[torch.arange(4), loss.codes] = True
    assert (codebooks.grad[~used] == 0).all()
    assert (codebooks.grad[used].abs().sum(dim=-1) > 0).any()
    assert rounding[0].model.embeddings.word_embeddings.weight.grad.abs().sum() > 0
    assert rounding[-1].rotate.weight.grad is None


def test_what_is_right_is_no_negative(rounding):
    loss = loss_of(rounding, relevant=[set(range(10))])
    found = of_queries(loss, ANCHORS[:1])
    assert found.item() == 0
    found.backward()
    assert not rounding[-1].codebooks.grad.any()


def test_the_search_uses_the_centroids_of_the_moment(rounding, monkeypatch):
    loss = loss_of(rounding, candidates=4)
    queries = rounding.encode_query(ANCHORS, convert_to_tensor=True)
    before = loss.search(queries)
    monkeypatch.setattr("st_plugins.losses.index_ranking._DOCUMENTS", 3)  # in parts, the same
    assert torch.equal(loss.search(queries), before)
    torch.manual_seed(1)
    rounding[-1].codebooks.data += 0.3 * torch.randn_like(rounding[-1].codebooks)
    scores = queries @ documents_of(rounding).T
    assert torch.equal(loss.search(queries), scores.topk(4).indices)
    assert not torch.equal(loss.search(queries), before)


def test_a_few_steps_make_it_smaller_and_the_index_sees_them(rounding):
    loss = loss_of(rounding)
    loss.train()
    optimizer = torch.optim.Adam([rounding[-1].codebooks], lr=0.1)
    values = []
    for _ in range(20):
        value = of_queries(loss)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        values.append(value.item())
    assert values[-1] < 0.5 * values[0]
    rounding.eval()
    index = faiss_index(rounding[-1], loss.codes)
    front = SentenceTransformer(modules=list(rounding)[:-1], device="cpu")
    scores, rows = index.search(front.encode(ANCHORS), 3)
    queries = rounding.encode_query(ANCHORS, convert_to_tensor=True)
    expected = (queries @ documents_of(rounding).T).topk(3)
    np.testing.assert_allclose(scores, expected.values, atol=1e-5)
    assert np.array_equal(rows, expected.indices)


def test_the_trainer_runs_it(rounding, tmp_path):
    queries = Dataset.from_dict({"query": ANCHORS, "label": list(range(len(ANCHORS)))})
    arguments = SentenceTransformerTrainingArguments(
        str(tmp_path), max_steps=2, per_device_train_batch_size=3, report_to=[], use_cpu=True, save_strategy="no"
    )
    before = copy.deepcopy(rounding[-1].codebooks.data)
    loss = loss_of(rounding)
    codes = loss.codes.clone()
    SentenceTransformerTrainer(model=rounding, args=arguments, train_dataset=queries, loss=loss).train()
    assert not torch.equal(rounding[-1].codebooks.data, before)
    assert torch.equal(loss.codes, codes)
    assert loss.state_dict().keys() == {f"model.{name}" for name in rounding.state_dict()}


def test_what_cannot_train_is_refused(rounding, plain):
    with pytest.raises(UnsupportedModelError, match="must end in ProductQuantization with float_queries=True, got Nor"):
        IndexRankingLoss(plain, torch.zeros(1, 4, dtype=torch.int64), [{0}])
    with pytest.raises(UnsupportedModelError, match="with float_queries=True, got ProductQuantization"):
        loss_of(rounded(plain, float_queries=False))
    codes = CODES
    for wrong in (codes + 8, codes.float(), codes[:, :3], codes.tolist()):
        with pytest.raises(LossError, match=r"codes must be integers from 0 to 7 of shape \(documents, 4\), got"):
            IndexRankingLoss(rounding, wrong, RELEVANT)
    for wrong in (set(), {10}, {-1}):
        with pytest.raises(LossError, match="at positions from 0 to 9, got .* for query 1"):
            IndexRankingLoss(rounding, codes, [{0}, wrong])
    with pytest.raises(LossError, match="scale must be"):
        loss_of(rounding, scale=0.0)
    for name in ("candidates", "cut"):
        with pytest.raises(LossError, match=f"{name} must be a positive integer, got 0"):
            loss_of(rounding, **{name: 0})
    loss = loss_of(rounding)
    with pytest.raises(LossError, match="must have one column, the queries, got 2"):
        loss([{}, {}], torch.tensor([0]))
    with pytest.raises(LossError, match="must have one integer per row"):
        loss([rounding.preprocess(ANCHORS)])
    with pytest.raises(LossError, match="must have labels from 0 to 5"):
        of_queries(loss, ANCHORS[:1], [6])
    rounding[-1].rotate.weight.data[0] = float("nan")
    with pytest.raises(LossError, match="Embeddings must be numbers, got NaN"):
        of_queries(loss)


def test_the_card_knows_it(rounding):
    assert loss_of(rounding).get_config_dict() == {"candidates": 10, "cut": None, "scale": 20.0}
