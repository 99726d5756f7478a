"""Attention in which far tokens share positions, against rotations pair by pair in complex numbers."""

from types import SimpleNamespace

import pytest
import torch
from transformers import LlamaConfig

import families
from st_plugins.errors import UnsupportedModelError
from st_plugins.grouped_attention import (
    FAMILIES,
    check_grouping,
    frequencies,
    grouped_attention,
    grouped_distances,
)


def test_distances_by_hand():
    distances = grouped_distances(10, 2, 4)
    assert distances[:, 0].tolist() == [0, 1, 2, 3, 4, 4, 5, 5, 6, 6]
    assert distances[4].tolist() == [4, 3, 2, 1, 0, -1, -2, -3, -4, -4]


@pytest.mark.parametrize(("group_size", "window"), [(1, 3), (2, 4), (3, 5), (4, 4), (5, 1)])
def test_distances_go_both_ways_alike_and_never_backwards(group_size, window):
    distances = grouped_distances(40, group_size, window)
    assert torch.equal(distances, -distances.T)
    steps = distances[:, 0].diff()
    assert ((steps >= 0) & (steps <= 1)).all()
    assert int(distances.max()) <= 39 // group_size + window - window // group_size


def test_groups_of_one_and_wide_windows_change_nothing():
    plain = torch.arange(9)[:, None] - torch.arange(9)
    assert torch.equal(grouped_distances(9, 1, 3), plain)
    assert torch.equal(grouped_distances(9, 4, 9), plain)


def rotated(states, positions, config):
    """As a pair of numbers a + bi is multiplied with exp(i position frequency)."""
    first, second = states.chunk(2, dim=-1)
    turned = torch.complex(first, second) * torch.exp(1j * positions[..., None] * frequencies(config))
    return torch.cat([turned.real, turned.imag], dim=-1)


def test_both_ways_to_write_a_configuration_say_the_same():
    sizes = {"hidden_size": 8, "num_attention_heads": 2}
    new = SimpleNamespace(**sizes, rope_parameters={"rope_theta": 1e4, "rope_type": "default"})
    old = SimpleNamespace(**sizes, rope_theta=1e4, rope_scaling=None)  # transformers 4
    for config in (new, old):
        assert torch.allclose(frequencies(config), torch.tensor([1.0, 0.01]))


@pytest.mark.parametrize("padding", [0, 3])
@pytest.mark.parametrize("is_causal", [False, True])
def test_it_is_attention_at_those_distances(padding, is_causal):
    config = LlamaConfig(hidden_size=16, num_attention_heads=2, head_dim=8)
    config.grouped_attention = [3, 5]
    length, scaling = 14, 0.4
    query, key, value = (torch.randn(1, heads, length, 8) for heads in (2, 1, 1))
    mask = torch.zeros(1, 1, length, length)
    mask[..., :padding] = torch.finfo(torch.float32).min
    if is_causal:
        mask.masked_fill_(torch.ones(length, length).triu(1).bool(), torch.finfo(torch.float32).min)
    places = torch.arange(length)
    module = SimpleNamespace(config=config, training=False)
    found, _ = grouped_attention(
        module, rotated(query, places, config), rotated(key, places, config), value, mask, scaling
    )
    distances = grouped_distances(length - padding, 3, 5)
    for row in range(padding, length):
        for head in range(2):
            turned = rotated(query[0, head, row].expand(length - padding, -1), distances[row - padding], config)
            scores = (turned * key[0, 0, padding:]).sum(dim=-1) * scaling + mask[0, 0, row, padding:]
            expected = torch.softmax(scores, dim=0) @ value[0, 0, padding:]
            assert torch.allclose(found[0, row, head], expected, atol=1e-5)


@pytest.mark.parametrize("family", [name for name in FAMILIES if name in families.available()])
def test_families_are_proved(family):
    check_grouping(families.build(family))


def test_other_families_and_scaled_positions_are_refused():
    for family in ("modernbert", "gemma3_text", "smollm3", "bert"):
        with pytest.raises(UnsupportedModelError, match="Positions can be grouped in eurobert, llama, .* got"):
            check_grouping(families.build(family))
    scaled = families.build("llama")
    scaled.config.rope_parameters = {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}
    with pytest.raises(UnsupportedModelError, match="rotary positions as they were trained; got llama"):
        check_grouping(scaled)
    other = families.build("llama")
    other.rotary_emb.inv_freq.mul_(0.5)
    with pytest.raises(UnsupportedModelError, match="does not rotate by the frequencies of its configuration"):
        check_grouping(other)
