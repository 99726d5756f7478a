import math
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest
import torch

import families
import reference
from families import but_slow
from st_plugins.exit_criteria import Gate, Saturation
from st_plugins.exit_policies import ExitPolicy
from st_plugins.exit_run import ExitRun
from st_plugins.views import view

LAYERS = (1, 2, 3, 4)
LENGTHS = [7, 12, 3, 9, 12, 5, 4, 8]


def inputs(side):
    """Token ids (8, 12) and their mask, padded on one side."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(5, 25, (len(LENGTHS), 12), generator=generator)
    mask = torch.zeros_like(ids)
    for row, length in enumerate(LENGTHS):
        mask[row, slice(length) if side == "right" else slice(12 - length, None)] = 1
    return {"input_ids": ids * mask, "attention_mask": mask}


def means(network, batch, row):
    """p_1 ... p_L of one row, by views and loops."""
    paths = []
    mask = batch["attention_mask"][row].tolist()
    for layer in LAYERS:
        states = view(network, layer)(**batch)[0][row].tolist()
        tokens = [state for state, is_token in zip(states, mask, strict=True) if is_token]
        paths.append([sum(column) / len(tokens) for column in zip(*tokens, strict=True)])
    return paths


def cosine(a, b):
    return reference.dot(reference.truncate(a, len(a)), reference.truncate(b, len(b)))


def expected_exit(path, layers, patience, threshold):
    """The first exit at which the last ``patience`` cosines all reach the threshold."""
    exits = [path[layer - 1] for layer in layers]
    cosines = [cosine(b, a) for a, b in pairwise(exits)]
    for index in range(patience, len(layers) - 1):
        if all(value >= threshold for value in cosines[index - patience : index]):
            return layers[index]
    return layers[-1]


def between(first, others):
    """A threshold amid the scores at the first exit, and far from all scores."""
    ordered = sorted(first)
    middles = [(low + high) / 2 for low, high in pairwise(ordered)]
    return max(middles, key=lambda middle: min(abs(middle - score) for score in [*first, *others]))


@pytest.fixture
def network(plain):
    return plain[0].model


@torch.no_grad()
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("patience", [1, 2])
@pytest.mark.parametrize("layers", [(1, 2, 3, 4), (1, 3, 4), (2, 3)])
def test_each_row_leaves_where_the_formula_says_with_the_states_of_that_layer(network, side, patience, layers):
    if len(layers) < patience + 2:
        layers = LAYERS
    batch = inputs(side)
    paths = [means(network, batch, row) for row in range(len(LENGTHS))]
    exits = [[path[k - 1] for k in layers] for path in paths]
    cosines = [[cosine(a, b) for a, b in pairwise(path)] for path in exits]
    threshold = between([c[0] for c in cosines], [value for c in cosines for value in c[1:]])
    policy = ExitPolicy("mine", Saturation(patience), threshold, layers)
    run = ExitRun(network, policy, layers)
    output = run(**batch)["last_hidden_state"]
    expected = [expected_exit(path, layers, patience, threshold) for path in paths]
    assert run.exit_layer.tolist() == expected
    assert patience > 1 or len(set(expected)) > 1
    for row, layer in enumerate(expected):
        states = view(network, layer)(**batch)[0][row]
        mask = batch["attention_mask"][row].bool()
        assert torch.allclose(output[row][mask], states[mask], atol=1e-5)
        assert output[row][~mask].abs().sum() == 0


def spread(network, batch, criterion):
    """A policy whose threshold lies amid the scores of this batch."""
    pooled = torch.tensor([means(network, batch, row) for row in range(len(LENGTHS))]).transpose(0, 1)
    lengths = torch.tensor(LENGTHS)
    scores = [criterion.score(pooled[:exits], lengths).tolist() for exits in (1, 2, 3)]
    scores = [at_exit for at_exit in scores if at_exit[0] > -math.inf]
    return ExitPolicy(
        "mine", criterion, between(scores[0], [score for at_exit in scores[1:] for score in at_exit]), LAYERS
    )


GATE = Gate((1, 2, 3), ((0.0, 0.0, 0.2, -0.1, 0.3), (0.5, 0.0, 0.2, -0.1, 0.1), (0.5, 0.1, 0.2, -0.1, 0.0)))


@torch.no_grad()
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("criterion", [Saturation(), GATE], ids=["saturation", "gate"])
def test_batch_mates_change_neither_exit_nor_states(network, side, criterion):
    batch = inputs(side)
    policy = spread(network, batch, criterion)
    together = ExitRun(network, policy, LAYERS)
    states = together(**batch)["last_hidden_state"]
    assert len(set(together.exit_layer.tolist())) >= 2
    for seed in range(4):
        order = torch.randperm(len(LENGTHS), generator=torch.Generator().manual_seed(seed))
        for size in (1, 2, 3, 5, 8):
            for rows in order.split(size):
                run = ExitRun(network, policy, LAYERS)
                part = run(**{name: value[rows] for name, value in batch.items()})["last_hidden_state"]
                assert torch.equal(run.exit_layer, together.exit_layer[rows])
                assert torch.allclose(part, states[rows], atol=1e-5)


@torch.no_grad()
def test_a_threshold_above_every_score_is_the_whole_model_bit_for_bit(network):
    batch = inputs("right")
    run = ExitRun(network, ExitPolicy("never", Saturation(), 2.0, LAYERS), LAYERS)
    output = run(**batch)["last_hidden_state"]
    tokens = batch["attention_mask"].bool()
    assert run.exit_layer.tolist() == [4] * 8
    assert torch.equal(output[tokens], network(**batch)[0][tokens])


@torch.no_grad()
def test_a_threshold_below_every_score_leaves_at_once(network):
    batch = inputs("right")
    for criterion, layer in ((Saturation(), 2), (Saturation(2), 3), (GATE, 1)):
        run = ExitRun(network, ExitPolicy("always", criterion, -1.0, LAYERS), LAYERS)
        run(**batch)
        assert run.exit_layer.tolist() == [layer] * 8


@torch.no_grad()
@pytest.mark.parametrize("side", ["right", "left"])
def test_each_row_keeps_its_own_length(network, side):
    # Heads that leave texts of at most 4, 8 and 11 tokens.
    heads = tuple((0.0, 0.0, 0.0, -0.3, 0.3 * math.log(longest + 0.5)) for longest in (4, 8, 11))
    run = ExitRun(network, ExitPolicy("short", Gate((1, 2, 3), heads), 0.0, LAYERS), LAYERS)
    run(**inputs(side))
    assert run.exit_layer.tolist() == [2, 4, 1, 3, 4, 2, 1, 2]  # of 7, 12, 3, 9, 12, 5, 4 and 8 tokens


@torch.no_grad()
def test_a_score_that_just_reaches_the_threshold_leaves(network):
    constant = Gate((1, 2, 3), ((0.0, 0.0, 0.0, 0.0, 0.25), (0.0, 0.0, 0.0, 0.0, 0.5), (0.0, 0.0, 0.0, 0.0, 0.75)))
    run = ExitRun(network, ExitPolicy("mine", constant, 0.5, LAYERS), LAYERS)
    run(**inputs("right"))
    assert run.exit_layer.tolist() == [2] * 8


@torch.no_grad()
def test_a_higher_threshold_never_leaves_earlier(network):
    batch = inputs("right")
    before = torch.zeros(8)
    for threshold in (-1.0, -0.3, 0.0, 0.2, 0.5, 0.7, 0.9, 0.97, 1.0, 2.0):
        run = ExitRun(network, ExitPolicy("mine", Saturation(), threshold, LAYERS), LAYERS)
        run(**batch)
        assert bool((run.exit_layer >= before).all())
        before = run.exit_layer


@torch.no_grad()
def test_scores_that_are_no_numbers_never_leave(network):
    batch = inputs("right")
    with torch.no_grad():
        network.encoder.layer[1].output.dense.weight.fill_(float("nan"))
    run = ExitRun(network, ExitPolicy("always", Saturation(), -1.0, LAYERS), LAYERS)
    run(**batch)
    assert run.exit_layer.tolist() == [4] * 8


@torch.no_grad()
def test_blocks_run_only_on_the_rows_that_are_left(network):
    batch = inputs("right")
    seen = []
    for layer, block in enumerate(network.encoder.layer, 1):
        block.register_forward_pre_hook(lambda _m, args, layer=layer: seen.append((layer, len(args[0]))))
    policy = spread(network, batch, Saturation())
    seen.clear()
    run = ExitRun(network, policy, LAYERS)
    run(**batch)
    rows = {layer: int((run.exit_layer >= layer).sum()) for layer in LAYERS}
    assert seen == [(layer, rows[layer]) for layer in LAYERS if rows[layer]]
    assert rows[4] < 8


@torch.no_grad()
def test_inputs_without_a_mask_are_all_tokens(network):
    ids = inputs("right")["input_ids"][1:2]
    run = ExitRun(network, ExitPolicy("never", Saturation(), 2.0, LAYERS), LAYERS)
    assert torch.equal(run(input_ids=ids)["last_hidden_state"], network(input_ids=ids)[0])


@torch.no_grad()
@pytest.mark.parametrize(
    "family", but_slow(families.available(), "bert", "deberta-v2", "modernbert", "t5", "gemma3_text")
)
def test_every_family_leaves_at_its_own_layers(family):
    network = families.build(family)
    ids, mask = families.batch()
    policy = ExitPolicy("mine", GATE, 0.35, LAYERS)
    run = ExitRun(network, policy, LAYERS)
    output = run(input_ids=ids, attention_mask=mask)["last_hidden_state"]
    for row in range(3):
        alone = view(network, int(run.exit_layer[row]))(input_ids=ids, attention_mask=mask)[0][row]
        tokens = mask[row].bool()
        scale = alone[tokens].abs().max()
        assert float((output[row][tokens] - alone[tokens]).abs().max() / scale) < 1e-4


def test_threads_share_one_network(network):
    batch = inputs("right")
    policy = spread(network, batch, Saturation())

    @torch.no_grad()
    def exits(_):
        run = ExitRun(network, policy, LAYERS)
        run(**batch)
        return tuple(run.exit_layer.tolist())

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(exits, range(40))) == {exits(0)}
