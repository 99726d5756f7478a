import copy
import math

import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Pooling
from torch import nn

import reference
from loss_cases import tuned
from st_plugins.errors import LossError, UnsupportedModelError
from st_plugins.training import merge_models
from st_plugins.training.merging import TaskVectors, merge_shares

METHODS = pytest.mark.parametrize("method", ["slerp", "arithmetic"])


def flat(model):
    """Everything but Hugging Face's pooler, which no module of ours runs."""
    return torch.cat([p.detach().flatten() for name, p in model.named_parameters() if ".pooler." not in name])


def orthogonal(rows):
    return torch.linalg.qr(torch.randn(8, rows, dtype=torch.float64)).Q.T


def combined(vectors, weights, method="slerp"):
    return merge_shares(vectors @ vectors.T, torch.tensor(weights, dtype=torch.float64), method) @ vectors


def test_orthogonal_units_with_equal_weights_meet_in_the_middle():
    vectors = orthogonal(2)
    merged = combined(vectors, [1.0, 1.0])
    assert torch.allclose(merged, vectors.sum(dim=0) / math.sqrt(2))
    assert merged.norm().item() == pytest.approx(1.0)
    assert combined(vectors, [1.0, 1.0], "arithmetic").norm().item() == pytest.approx(math.sqrt(0.5))


def test_a_larger_weight_is_nearer():
    # The paper's a of (3, 1), as shares of the angle away from each.
    shares = merge_shares(torch.eye(2), torch.tensor([1.0, 3.0]), "slerp")
    assert shares.tolist() == pytest.approx([0.3827, 0.9239], abs=1e-4)
    assert merge_shares(torch.eye(2), torch.tensor([1.0, 3.0]), "arithmetic").tolist() == [0.25, 0.75]


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_shares_are_those_of_the_arcs_themselves(count):
    vectors = torch.randn(count, 8, dtype=torch.float64)
    weights = (torch.rand(count) + 0.1).tolist()
    expected = reference.merged_arc(vectors.tolist(), weights)
    assert combined(vectors, weights).tolist() == pytest.approx(expected, rel=1e-10, abs=1e-10)


@METHODS
def test_only_ratios_of_weights_count(method):
    vectors, weights = torch.randn(3, 8, dtype=torch.float64), [0.5, 2.0, 1.0]
    assert torch.allclose(combined(vectors, weights, method), combined(vectors, [7 * w for w in weights], method))


def test_for_small_angles_both_methods_agree():
    direction = torch.randn(8, dtype=torch.float64)
    # In one line, almost in one line, and where the arc takes over from the chord.
    for spread in (0.0, 1e-6, 1e-4, 3e-4):
        vectors = direction + spread * torch.randn(3, 8, dtype=torch.float64)
        arc, chord = (combined(vectors, [1.0, 2.0, 3.0], method) for method in ("slerp", "arithmetic"))
        assert torch.allclose(arc, chord, atol=1e-6)


@METHODS
def test_shares_have_the_gradient_of_finite_differences(method):
    vectors = torch.randn(3, 8, dtype=torch.float64)
    weights = torch.tensor([0.5, 2.0, 1.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda w: merge_shares(vectors @ vectors.T, w, method), weights)


@METHODS
def test_scale_0_is_the_base_exactly_and_one_model_at_scale_1_that_model(plain, method):
    models = [tuned(plain, seed) for seed in (1, 2)]
    assert torch.equal(flat(merge_models(plain, models, scale=0.0, method=method)), flat(plain))
    alone = merge_models(plain, models[:1], method=method)
    assert torch.allclose(flat(alone), flat(models[0]), atol=1e-7)
    assert torch.allclose(
        flat(merge_models(plain, models[:1], scale=0.5, method=method)), (flat(plain) + flat(models[0])) / 2, atol=1e-6
    )


def test_the_whole_model_is_one_vector(plain):
    plain.double()
    models = [tuned(plain, seed, size) for seed, size in ((1, 0.1), (2, 0.3), (3, 0.2))]
    vectors = [(flat(model) - flat(plain)).tolist() for model in models]
    merged = merge_models(plain, models, weights=[1, 2, 0.5], scale=0.8)
    expected = flat(plain) + 0.8 * torch.tensor(reference.merged_arc(vectors, [1, 2, 0.5]), dtype=torch.float64)
    assert torch.allclose(flat(merged), expected, rtol=1e-10, atol=1e-12)
    arithmetic = merge_models(plain, models, weights=[1, 2, 0.5], method="arithmetic")
    expected = (flat(models[0]) + 2 * flat(models[1]) + 0.5 * flat(models[2])) / 3.5
    assert torch.allclose(flat(arithmetic), expected, rtol=1e-10, atol=1e-12)


def test_nothing_given_is_changed_and_the_first_models_settings_are_taken(plain):
    first, second = tuned(plain, 1), tuned(plain, 2)
    first.prompts = {"query": "find: ", "document": ""}
    before = [flat(model).clone() for model in (plain, first, second)]
    merged = merge_models(plain, [first, second])
    assert all(torch.equal(flat(m), b) for m, b in zip((plain, first, second), before, strict=True))
    assert merged.prompts["query"] == "find: "
    assert merged.training is first.training
    assert not {id(p) for p in merged.parameters()} & {id(p) for m in (plain, first, second) for p in m.parameters()}


class _Counter(Pooling):
    """A module with a tied matrix, an integer buffer and numbers that are averages."""

    def __init__(self):
        super().__init__(16, "mean")
        self.one = nn.Linear(16, 16)
        self.other = nn.Linear(16, 16)
        self.other.weight = self.one.weight
        self.register_buffer("count", torch.tensor(1))
        self.register_buffer("average", torch.ones(16))


def test_shared_tensors_count_once_and_integers_are_the_first_models(plain):
    base = SentenceTransformer(modules=[plain[0], _Counter()], device="cpu")
    models = [tuned(base, seed) for seed in (1, 2)]
    for number, model in enumerate(models):
        model[1].count += 10 * (number + 1)
        model[1].average += number + 1
    merged = merge_models(base, models, method="arithmetic")
    assert merged[1].other.weight is merged[1].one.weight
    assert torch.allclose(merged[1].one.weight, (models[0][1].one.weight + models[1][1].one.weight) / 2, atol=1e-6)
    assert merged[1].count == 11
    assert merged[1].average.tolist() == [2.5] * 16
    difference = [flat(model) - flat(base) for model in models]  # parameters() has shared ones once
    extra = [16.0, 32.0, 64.0]  # the averages: 1 * 1, 1 * 2 and 2 * 2, sixteen times
    products = [float(a @ b) for a, b in ((difference[0],) * 2, difference, (difference[1],) * 2)]
    gram = TaskVectors(base, models).gram()
    assert [gram[0, 0], gram[0, 1], gram[1, 1]] == pytest.approx([p + e for p, e in zip(products, extra, strict=True)])


def test_a_pooler_that_is_never_run_turns_no_angle(plain):
    models = [tuned(plain, seed) for seed in (1, 2)]
    before = TaskVectors(plain, models).gram()
    models[1][0].model.pooler.dense.weight.data.normal_()  # as a load does
    assert torch.equal(TaskVectors(plain, models).gram(), before)
    pooler = merge_models(plain, models)[0].model.pooler.dense.weight
    assert torch.equal(pooler, models[0][0].model.pooler.dense.weight)


@METHODS
def test_an_elastic_model_keeps_the_sizes_that_all_were_trained_at(model, method):
    first, second = (tuned(model, seed) for seed in (1, 2))
    first[0].add_sizes([(2, 8), (3, 16)])
    second[0].add_sizes([(1, 8), (3, 16)])
    merged = merge_models(model, [first, second], method=method)
    assert merged[0].sizes == [[3, 16]]
    assert first[0].sizes == [[2, 8], [3, 16]]
    assert merged.encode(["the cat"], layer=3).shape == (1, 16)


def test_half_precision_stays_half(plain):
    plain.bfloat16()
    merged = merge_models(plain, [tuned(plain, 1), tuned(plain, 2)])
    assert {parameter.dtype for parameter in merged.parameters()} == {torch.bfloat16}


def test_vectors_without_an_arc_between_them_are_refused(plain):
    away = copy.deepcopy(plain)
    there = tuned(plain, 1)
    with torch.no_grad():
        for parameter, start, end in zip(away.parameters(), plain.parameters(), there.parameters(), strict=True):
            parameter.copy_(start - (end - start))
    with pytest.raises(UnsupportedModelError, match="No arc can be drawn to task vector 1.*at an angle of 3.14"):
        merge_models(plain, [there, away])
    assert torch.allclose(flat(merge_models(plain, [there, away], method="arithmetic")), flat(plain), atol=1e-6)
    with pytest.raises(UnsupportedModelError, match=r"must differ from the base, those at \[1\] have the same weights"):
        merge_models(plain, [there, copy.deepcopy(plain)])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": [1.0]}, r"one positive number for each of 2 models, got \[1.0\]"),
        ({"weights": [1.0, 0.0]}, r"got \[1.0, 0.0\]"),
        ({"weights": [1.0, math.inf]}, r"got \[1.0, inf\]"),
        ({"scale": math.nan}, "scale must be a finite number, got nan"),
    ],
)
def test_numbers_out_of_range_are_refused(plain, options, message):
    with pytest.raises(LossError, match=message):
        merge_models(plain, [tuned(plain, 1), tuned(plain, 2)], **options)


def test_models_that_do_not_match_are_refused(plain, tokenizer):
    with pytest.raises(LossError, match="method must be one of slerp, arithmetic, got 'ties'"):
        merge_models(plain, [tuned(plain, 1)], method="ties")
    with pytest.raises(UnsupportedModelError, match="There must be at least one model to merge, got none"):
        merge_models(plain, [])
    wider = SentenceTransformer(modules=[plain[0], Pooling(16, "mean"), Dense(16, 4)], device="cpu")
    with pytest.raises(UnsupportedModelError, match=r"the one at 1 differs in \['2.linear.bias', '2.linear.weight'\]"):
        merge_models(plain, [tuned(plain, 1), wider])
    other_pooling = SentenceTransformer(modules=[plain[0], Pooling(16, "cls"), plain[2]], device="cpu")
    with pytest.raises(UnsupportedModelError, match="the one at 0 differs in the configuration of its modules or its"):
        merge_models(plain, [other_pooling])
    other_words = tuned(plain, 1)
    other_words.tokenizer.add_tokens(["more"])
    with pytest.raises(UnsupportedModelError, match="or its vocabulary"):
        merge_models(plain, [other_words])
