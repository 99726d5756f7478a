from collections import OrderedDict

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

import st_plugins
from conftest import MANY_TEXTS as TEXTS
from st_plugins.alignment import _check_unit, align_layers
from st_plugins.errors import InputError, SizeError, UnsupportedModelError, UntrainedSizeError
from st_plugins.linear_maps import RIDGES
from st_plugins.modules import LayerAlignment, Truncation


def solved(x, y, ridge):
    """The formula, by stacking the ridge below the texts and asking numpy."""
    mean_x, mean_y = x.mean(0), y.mean(0)
    centred = x - mean_x
    strength = ridge * (centred**2).sum() / x.shape[1]
    rows = np.vstack([centred, np.sqrt(strength) * np.eye(x.shape[1])])
    weight = np.linalg.lstsq(rows, np.vstack([y - mean_y, np.zeros((x.shape[1], y.shape[1]))]), rcond=None)[0].T
    return weight, mean_y - weight @ mean_x


def test_a_map_is_one_of_the_five_least_squares_solutions(model):
    aligned = align_layers(model, TEXTS, layers=[2])
    x, y = (model.encode(TEXTS, layer=layer, allow_untrained=True).astype(np.float64) for layer in (2, 4))
    weight, bias = aligned[3].map_of(2)
    candidates = [solved(x, y, ridge) for ridge in RIDGES]
    distances = [max(abs(w - weight.numpy()).max(), abs(b - bias.numpy()).max()) for w, b in candidates]
    assert min(distances) < 1e-4 < sorted(distances)[1]


def test_the_full_depth_is_not_touched_and_shallow_layers_come_near_it(model, texts):
    aligned = align_layers(model, TEXTS)
    full = model.encode(texts)
    assert np.array_equal(aligned.encode(texts), full)
    for layer in (1, 2, 3):
        before = (model.encode(texts, layer=layer, allow_untrained=True) * full).sum(1).mean()
        after = (aligned.encode(texts, layer=layer) * full).sum(1).mean()
        assert after > before + 0.1
        assert np.linalg.norm(aligned.encode(texts, layer=layer), axis=1) == pytest.approx(1, abs=1e-5)


def test_where_later_blocks_add_almost_nothing_the_map_is_almost_exact(model):
    with torch.no_grad():
        for block in model[0].model.encoder.layer[2:]:
            for dense in (block.attention.output.dense, block.output.dense):
                dense.weight.zero_()
                dense.bias.zero_()
    aligned = align_layers(model, TEXTS, layers=[2])
    full = aligned.encode(TEXTS)
    assert (aligned.encode(TEXTS, layer=2) * full).sum(1).min() > 0.9999


def test_its_result_does_not_depend_on_order_batches_or_repetitions(model):
    maps = [
        align_layers(model, texts, layers=[1], batch_size=size)[3].map_of(1)
        for texts, size in ((TEXTS, 64), (TEXTS[::-1], 7), (TEXTS * 2, 64))
    ]
    for weight, bias in maps[1:]:
        assert torch.allclose(weight, maps[0][0], atol=1e-4)
        assert torch.allclose(bias, maps[0][1], atol=1e-4)


def test_the_given_model_stays_as_it_is_and_shares_its_weights(model, texts):
    model.train()
    aligned = align_layers(model, TEXTS, layers=[1])
    assert [type(module).__name__ for module in aligned][-2:] == ["LayerAlignment", "Truncation"]
    assert len(list(model.children())) == 4
    assert model.training
    assert aligned.training
    assert model[0].model is aligned[0].model
    assert model[0].sizes == []
    with pytest.raises(UntrainedSizeError, match="trained for"):
        model.encode("a cat", layer=1)
    shared = {id(parameter) for parameter in aligned.parameters()}
    assert all(id(parameter) in shared for parameter in model.parameters())


def test_aligned_again_it_has_one_alignment_only(model):
    again = align_layers(align_layers(model, TEXTS, layers=[1]), TEXTS, layers=[1, 3])
    assert [module.layers for module in again if isinstance(module, LayerAlignment)] == [[1, 3]]
    first = align_layers(model, TEXTS, layers=[1, 3])
    assert torch.allclose(again[3].weight, first[3].weight, atol=1e-4)


def test_aligned_layers_count_as_trained_at_the_dims_of_the_full_depth(plain, texts):
    model = st_plugins.elastic(plain, sizes=[(4, 8)])
    aligned = align_layers(model, TEXTS, layers=[2])
    assert aligned[0].sizes == [[2, 8], [2, 16], [4, 8]]
    assert aligned.encode(texts, layer=2, truncate_dim=8).shape == (5, 8)
    with pytest.raises(UntrainedSizeError, match=r"trained for, \[2, 4\], got 3"):
        aligned.encode(texts, layer=3)


def test_policies_are_left_behind_with_the_vectors_they_were_calibrated_for(plain):
    model = st_plugins.elastic(plain, sizes=[(1, 16), (2, 16)])
    st_plugins.exits.calibrate_exits(model, TEXTS, name="mine", alpha=0.9, delta=0.5)
    assert list(model[0].exit_policies) == ["mine"]
    assert align_layers(model, TEXTS)[0].exit_policies == {}
    assert list(model[0].exit_policies) == ["mine"]


def test_a_promise_about_other_maps_is_void(plain):
    model = align_layers(st_plugins.elastic(plain), TEXTS)
    st_plugins.exits.calibrate_exits(model, TEXTS, name="mine", alpha=0.9, delta=0.5)
    assert "void" not in st_plugins.exits.policy_table(model)
    with torch.no_grad():
        model[3].weight.mul_(1.5)
    assert "void: the model has changed since" in st_plugins.exits.policy_table(model)


def test_a_prompt_goes_before_every_text(model):
    with_prompt = align_layers(model, TEXTS, layers=[1], prompt="the red ")
    by_hand = align_layers(model, [f"the red {text}" for text in TEXTS], layers=[1])
    assert torch.allclose(with_prompt[3].weight, by_hand[3].weight, atol=1e-4)


def test_texts_that_are_all_alike_give_the_one_vector_there_is(model):
    texts = [" ".join(["cat"] * (count % 3 + 1)) + " " * count for count in range(12)]  # three different token rows
    aligned = align_layers(model, texts, layers=[1])
    assert (aligned.encode("cat", layer=1) * aligned.encode("cat")).sum() > 0.99


def test_bad_input_is_refused(model, plain):
    with pytest.raises(UnsupportedModelError, match="model for an alignment must be elastic"):
        align_layers(plain, TEXTS)
    for layers in ([], [4], [0], ["1"]):
        with pytest.raises(SizeError, match="layers must be below the full depth 4 and at least 1"):
            align_layers(model, TEXTS, layers=layers)
    for texts in ("a text", TEXTS[:9], [TEXTS[0]] * 20, [*TEXTS, 3]):
        with pytest.raises(InputError, match="texts must be at least 10 different texts"):
            align_layers(model, texts)
    bare = st_plugins.elastic(SentenceTransformer(modules=list(plain.children())[:2], device="cpu"))
    with pytest.raises(UnsupportedModelError, match="must have unit length to align others to them, one has"):
        align_layers(bare, TEXTS)
    with pytest.raises(UnsupportedModelError, match=r"one has 3\. Add"):
        _check_unit(torch.tensor([[1.0, 0.0], [3.0, 0.0]]))


def test_modules_keep_the_names_by_which_the_host_knows_their_arguments(plain):
    named = SentenceTransformer(modules=OrderedDict(zip(("t", "p", "n"), plain, strict=True)), device="cpu")
    named.module_kwargs = {"p": ["task"]}
    aligned = align_layers(st_plugins.elastic(named), TEXTS, layers=[2])
    assert list(dict(aligned.named_children())) == ["t", "p", "n", "3", "4"]
    assert aligned.module_kwargs == {"p": ["task"]}
    again = align_layers(aligned, TEXTS, layers=[2])
    assert list(dict(again.named_children())) == ["t", "p", "n", "3", "4"]
    baked = st_plugins.bake(again, layer=2, dim=8)
    assert [type(module).__name__ for module in baked][2:] == ["Normalize", "Dense", "Normalize", "Dense", "Normalize"]
    assert baked.module_kwargs == {"p": ["task"]}


def test_a_model_that_is_cut_for_good_is_mapped_behind_the_cut(plain):
    short = SentenceTransformer(modules=[*list(st_plugins.elastic(plain))[:-1], Truncation(8)], device="cpu")
    aligned = align_layers(short, TEXTS)
    assert [type(module).__name__ for module in aligned][-2:] == ["Truncation", "LayerAlignment"]
    np.testing.assert_allclose(aligned.encode(TEXTS), short.encode(TEXTS), atol=1e-6)
    shallow = aligned.encode(TEXTS, layer=1)
    assert shallow.shape == (len(TEXTS), 8)
    before, deep = short.encode(TEXTS, layer=1, allow_untrained=True), short.encode(TEXTS)
    assert ((shallow - deep) ** 2).sum() < ((before - deep) ** 2).sum()
