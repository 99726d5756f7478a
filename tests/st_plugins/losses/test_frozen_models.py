import copy

import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from tokenizers import Tokenizer, models, pre_tokenizers

from loss_cases import ANCHORS
from st_plugins.errors import LossError
from st_plugins.losses.frozen_models import check_own_weights, embed_frozen


@pytest.mark.parametrize("mini_batch_size", [None, 1, 4, 100])
def test_it_is_what_the_model_encodes_without_a_gradient_or_dropout(plain, mini_batch_size):
    expected = plain.encode(ANCHORS, convert_to_tensor=True)
    features = plain.preprocess(ANCHORS)
    names = set(features)
    plain.train()  # as the trainer does with all of a loss
    found = embed_frozen(plain, features, mini_batch_size)
    assert torch.allclose(found, expected, atol=1e-6)
    assert not found.requires_grad
    assert set(features) == names


def test_memory_is_that_of_a_mini_batch(plain):
    seen = []
    plain[0].register_forward_hook(lambda module, args, out: seen.append(len(args[0]["input_ids"])))
    embed_frozen(plain, plain.preprocess(ANCHORS), 4)
    assert seen == [4, 2]


def test_static_models_are_not_cut():
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "cat": 1, "dog": 2}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    static = SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=8)], device="cpu")
    texts = ["cat", "dog cat", "dog dog cat"]
    expected = static.encode(texts, convert_to_tensor=True)
    assert torch.allclose(embed_frozen(static, static.preprocess(texts), 2), expected)


def test_weights_of_its_own(plain):
    check_own_weights("teacher", copy.deepcopy(plain), plain)
    other = SentenceTransformer(modules=[copy.deepcopy(plain[0]), plain[1]], device="cpu")
    check_own_weights("teacher", other, plain)  # a pooling has none
    half = copy.deepcopy(plain)
    half[0].model.embeddings = plain[0].model.embeddings
    with pytest.raises(LossError, match="guide must have weights of its own, this one shares some with the model and"):
        check_own_weights("guide", half, plain)
