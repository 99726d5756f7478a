import pytest
import torch

import reference
from st_plugins.cross_attention import CrossAttention, GatedFeedForward


def randomized(module):
    """In double precision, with norms that do something."""
    for parameter in module.double().parameters():
        torch.nn.init.normal_(parameter)
    return module


def lists(module):
    return {name: value.tolist() for name, value in module.state_dict().items()}


def test_attention_is_the_formula():
    block = randomized(CrossAttention(6, num_heads=3, head_dim=4))
    queries, context = torch.randn(2, 5, 6, dtype=torch.float64), torch.randn(2, 7, 6, dtype=torch.float64)
    for found, x, c in zip(block(queries, context), queries, context, strict=True):
        expected = reference.cross_attention(x.tolist(), c.tolist(), lists(block), 3, 4)
        assert torch.allclose(found, torch.tensor(expected, dtype=torch.float64), atol=1e-12)


def test_uniform_attention_by_hand():
    block = CrossAttention(2, num_heads=1, head_dim=2)
    with torch.no_grad():
        block.to_queries.weight.zero_()
        block.to_values.weight.copy_(torch.eye(2))
        block.to_output.weight.copy_(torch.eye(2))
    context = torch.tensor([[[3.0, 1.0], [2.0, 0.0], [0.0, 2.0]]])  # normalised (1, -1), (1, -1), (-1, 1)
    found = block(torch.tensor([[[5.0, 7.0]]]), context)
    assert torch.allclose(found, torch.tensor([[[5 + 1 / 3, 7 - 1 / 3]]]), atol=1e-4)


def test_one_side_may_be_the_same_for_every_row():
    block = randomized(CrossAttention(6, num_heads=2, head_dim=3))
    few, many = torch.randn(1, 4, 6, dtype=torch.float64), torch.randn(3, 5, 6, dtype=torch.float64)
    assert torch.allclose(block(few, many), block(few.repeat(3, 1, 1), many), atol=1e-12)
    assert torch.allclose(block(many, few), block(many, few.repeat(3, 1, 1)), atol=1e-12)


def test_the_feed_forward_layer_is_the_formula():
    block = randomized(GatedFeedForward(3))
    states = torch.randn(2, 4, 3, dtype=torch.float64)
    expected = [[reference.gated_feed_forward(state, lists(block)) for state in row] for row in states.tolist()]
    assert torch.allclose(block(states), torch.tensor(expected, dtype=torch.float64), atol=1e-12)


def test_the_feed_forward_layer_by_hand():
    block = GatedFeedForward(2)
    with torch.no_grad():
        block.expand.weight.zero_()
        block.expand.bias.copy_(torch.tensor([2.0] * 8 + [1.0] * 8))
        block.contract.weight.zero_()
        block.contract.weight[0, 0] = 1.0
        block.contract.bias.zero_()
    # GELU(1) is the normal distribution at 1, 0.84134; tanh's approximation would be 0.84119.
    assert torch.allclose(block(torch.tensor([3.0, 1.0])), torch.tensor([3 + 2 * 0.8413447, 1.0]), atol=1e-6)


def test_gradients_are_those_of_finite_differences():
    block = randomized(CrossAttention(3, num_heads=2, head_dim=2))
    inputs = [torch.randn(1, n, 3, dtype=torch.float64, requires_grad=True) for n in (2, 3)]
    assert torch.autograd.gradcheck(block, inputs)
    assert torch.autograd.gradcheck(randomized(GatedFeedForward(3)), inputs[:1])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_kept_and_close(dtype):
    block = CrossAttention(16, num_heads=2, head_dim=8)
    queries, context = torch.randn(2, 3, 16), torch.randn(2, 5, 16)
    expected = block(queries, context)
    found = block.to(dtype)(queries.to(dtype), context.to(dtype))
    assert found.dtype == dtype
    assert torch.allclose(found.float(), expected, atol=0.05)


def test_scores_that_half_precision_could_not_hold_unscaled():
    attention = CrossAttention(4, num_heads=1, head_dim=256)
    with torch.no_grad():
        for linear in (attention.to_queries, attention.to_keys):
            linear.weight.fill_(20.0).mul_(torch.tensor([1.0, -1.0, 0.0, 0.0]))
    x, context = (
        torch.tensor([[[1.0, -1.0, 0.0, 0.0]]]),
        torch.tensor([[[1.0, -1.0, 0.0, 0.0], [1.0, -0.9, 0.0, -0.1]]]),
    )
    expected = attention(x, context)
    found = attention.half()(x.half(), context.half())
    q = attention.to_queries(attention.query_norm(x.half()))
    assert (q @ q.transpose(1, 2)).isinf().all()
    assert torch.allclose(found.float(), expected, atol=2e-2)
