import math

import pytest
import torch

import reference
from st_plugins.losses.bag_of_words import bag_of_words_loss

IDS = torch.tensor([5, 5, 7, 9])


def test_the_value_is_that_of_the_formula():
    logits = torch.randn(4, 12).double()
    expected = reference.bag_of_words(logits.tolist(), IDS.tolist())
    assert bag_of_words_loss(logits, IDS).item() == pytest.approx(expected, rel=1e-12)


def test_words_that_come_twice_count_once():
    # Every word is as likely as any other: the weights of 5, 7 and 9 add up to 3 / 4.
    assert bag_of_words_loss(torch.zeros(4, 12), IDS).item() == pytest.approx(0.75 * math.log(12))


def test_the_order_of_tokens_does_not_matter():
    logits, order = torch.randn(4, 12), torch.tensor([2, 0, 3, 1])
    assert torch.allclose(bag_of_words_loss(logits, IDS), bag_of_words_loss(logits[order], IDS[order]))


def test_only_the_best_logit_of_a_word_gets_a_gradient():
    logits = torch.randn(4, 12, requires_grad=True)
    bag_of_words_loss(logits, IDS).backward()
    assert ((logits.grad != 0).sum(dim=0) <= 1).all()
    assert torch.equal((logits.grad != 0).nonzero()[:, 0].sort().values, logits.argmax(dim=0).sort().values)
