import copy
import gc
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from transformers import AutoModel

from st_plugins import weight_digests
from st_plugins.weight_digests import weights_digest


@pytest.fixture
def network(plain):
    return plain[0].model


def test_it_is_the_same_for_the_same_weights(network, tmp_path):
    digest = weights_digest(network)
    assert len(digest) == 64
    assert digest == weights_digest(network) == weights_digest(copy.deepcopy(network))
    network.save_pretrained(tmp_path)
    assert weights_digest(AutoModel.from_pretrained(tmp_path, add_pooling_layer=False)) == digest


def test_a_made_up_pooler_does_not_count(tiny_folder):
    pair = [AutoModel.from_pretrained(tiny_folder) for _ in range(2)]
    assert not torch.equal(*(network.pooler.dense.weight for network in pair))
    assert weights_digest(pair[0]) == weights_digest(pair[1])


def step(network, **options):
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, **options)
    network(input_ids=torch.ones(1, 4, dtype=torch.long))[0].sum().backward()
    optimizer.step()


def one_weight(network):
    with torch.no_grad():
        next(network.parameters()).view(-1)[0] += 1


@pytest.mark.parametrize(
    "change",
    [
        step,
        lambda network: step(network, fused=True),  # as the trainer does
        one_weight,
        lambda network: network.bfloat16(),
        lambda network: network.bfloat16().float(),
        lambda network: network.load_state_dict({k: v + 1 for k, v in network.state_dict().items()}),
        lambda network: setattr(network.encoder, "layer", network.encoder.layer[:3]),
    ],
    ids=["training", "fused training", "in place", "precision", "rounding", "loading", "fewer blocks"],
)
def test_a_change_is_seen_by_the_next_call(network, change):
    before = weights_digest(network)
    change(network)
    assert weights_digest(network) != before
    assert weights_digest(network) == weights_digest(copy.deepcopy(network))  # nothing stale is kept


def test_unchanged_weights_are_not_read_again(network, monkeypatch):
    digest = weights_digest(network)
    monkeypatch.setattr(weight_digests, "_digest", lambda weights: pytest.fail("read again"))
    assert weights_digest(network) == digest


def test_nothing_is_kept_of_a_network_that_is_gone(network):
    other = copy.deepcopy(network)
    weights_digest(other)
    weights = weakref.ref(next(other.parameters()))
    assert other in weight_digests._known
    del other
    gc.collect()
    assert weights() is None


def test_weights_made_in_inference_mode_have_one_too(network):
    with torch.inference_mode():
        clone = copy.deepcopy(network)
    assert weights_digest(clone) == weights_digest(network)


def test_many_threads_get_the_same(network):
    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(lambda _: weights_digest(network), range(200)))) == 1
