import copy

import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import (
    CachedMultipleNegativesRankingLoss,
    MultipleNegativesRankingLoss,
)
from sentence_transformers.util import dot_score

from loss_cases import batch
from st_plugins.errors import LossError, UnsupportedModelError
from st_plugins.losses import QuantizationLoss
from st_plugins.modules import ProductQuantization


@pytest.fixture
def rounding(plain):
    module = ProductQuantization(16, parts=4, centroids=2)
    return SentenceTransformer(modules=[*plain.children(), module], device="cpu").eval()


def loss_of(model, weight=0.5):
    return QuantizationLoss(model, MultipleNegativesRankingLoss(model, similarity_fct=dot_score), weight=weight)


@pytest.fixture
def columns(rounding):
    return batch(rounding)


def test_it_is_the_formula(rounding, columns):
    found = loss_of(rounding)(copy.deepcopy(columns))
    query = rounding(copy.deepcopy(columns[0]), task="query")["sentence_embedding"]
    documents = rounding(copy.deepcopy(columns[1]), task="document")
    base = MultipleNegativesRankingLoss(rounding, similarity_fct=dot_score)
    expected = base.compute_loss_from_embeddings([query, documents["sentence_embedding"]], None)
    assert torch.allclose(found["ranking"], expected, atol=1e-6)
    assert torch.allclose(found["quantization"], 0.5 * documents["quantization_error"].mean(), atol=1e-6)


def test_a_few_steps_make_it_smaller(rounding, columns):
    loss = loss_of(rounding.train(), weight=1.0)
    optimizer = torch.optim.Adam([rounding[-1].codebooks], lr=0.02)
    values = []
    for _ in range(30):
        value = sum(loss(copy.deepcopy(columns)).values())
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        values.append(value.item())
    assert values[-1] < 0.8 * values[0]


def test_what_cannot_train_is_refused(rounding, plain, columns):
    with pytest.raises(UnsupportedModelError, match="The model must end in ProductQuantization, got Normalize"):
        QuantizationLoss(plain, MultipleNegativesRankingLoss(plain))
    with pytest.raises(LossError, match="weight must be a number >= 0, got -1"):
        loss_of(rounding, weight=-1)
    with pytest.raises(LossError, match="must not cache gradients, got CachedMultipleNegativesRankingLoss: balanced"):
        QuantizationLoss(rounding, CachedMultipleNegativesRankingLoss(rounding))
    with pytest.raises(LossError, match="a column of queries and one of documents, got 1 columns"):
        loss_of(rounding)(columns[:1])


def test_a_nan_stops_the_training(rounding, columns):
    rounding[-1].codebooks.data[0] = float("nan")
    with pytest.raises(LossError, match="Embeddings must be numbers, got NaN"):
        loss_of(rounding.train())(columns)


def test_the_card_knows_it(rounding):
    assert loss_of(rounding).get_config_dict() == {"loss": "MultipleNegativesRankingLoss", "weight": 0.5}
