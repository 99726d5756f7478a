import pytest
import torch
from sentence_transformers.sentence_transformer import losses as host

from loss_cases import batch
from st_plugins.errors import LossError, SizeError, UnsupportedModelError
from st_plugins.losses.layers import (
    check_base_loss,
    check_options,
    check_positive,
    check_sizes,
    full_size,
    layer_loss,
    precisely,
    starbucks_menu,
    task_loss,
)


def test_the_full_size_is_depth_and_width(model, plain):
    assert full_size(model) == full_size(torch.nn.DataParallel(model)) == (4, 16)
    with pytest.raises(UnsupportedModelError, match="a loss over layers must be elastic"):
        full_size(plain)


@pytest.mark.parametrize("mini_batch_size", [None, 3])
def test_a_formula_is_given_every_layer_of_every_column(model, mini_batch_size):
    columns = batch(model)
    seen = []
    layer_loss(model, columns, (1, 4), lambda reps: seen.append(reps) or sum(map(torch.sum, reps)), mini_batch_size)
    for column, features in zip(seen[0], columns, strict=True):
        assert column.shape == (len(features["input_ids"]), 2, 16)
        for place, layer in enumerate((1, 4)):
            alone = model(dict(features), layer=layer, allow_untrained=True)["sentence_embedding"]
            assert torch.allclose(column[:, place], alone, atol=1e-6)


def test_the_parts_of_a_loss_are_added():
    class Parts(torch.nn.Module):
        def compute_loss_from_embeddings(self, embeddings, labels):
            return {"a": embeddings[0].sum(), "b": 2 * embeddings[0].sum()}

    assert task_loss(Parts(), [torch.ones(1, 2)], None) == 6


def test_base_losses_without_embeddings_are_refused(plain):
    check_base_loss(host.MultipleNegativesRankingLoss(plain))
    with pytest.raises(LossError, match="must not cache gradients itself, got CachedMultipleNegativesRankingLoss"):
        check_base_loss(host.CachedMultipleNegativesRankingLoss(plain))
    with pytest.raises(LossError, match="must have compute_loss_from_embeddings, Identity has not"):
        check_base_loss(torch.nn.Identity())


@pytest.mark.parametrize(("option", "text"), [
    ({"weight": -1.0}, r"weight must be a number >= 0, got -1\.0"), ({"weight": float("nan")}, "weight .* got nan"),
    ({"temperature": 0.0}, r"temperature must be > 0, got 0\.0"), ({"mini_batch_size": 0}, "positive integer or None"),
])  # fmt: skip
def test_an_option_out_of_range_is_named(option, text):
    with pytest.raises(LossError, match=text):
        check_options(**{"mini_batch_size": None, "temperature": 1.0} | option)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_formulas_are_computed_in_single_precision_at_least(dtype):
    columns = [torch.randn(4, 8).to(dtype) for _ in range(2)]
    with torch.autocast("cpu", torch.bfloat16):
        found = precisely(lambda exact: exact[0] @ exact[1].T, columns)
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert torch.equal(found, columns[0].to(found.dtype) @ columns[1].to(found.dtype).T)


def test_sizes_are_sorted_without_the_full_one():
    assert check_sizes([[4, 16], (2, 8), (1, 16)], (4, 16)) == ((1, 16), (2, 8))
    assert check_sizes([(4, 16)], (4, 16)) == ()


@pytest.mark.parametrize(("sizes", "error", "text"), [
    ([], LossError, "must name at least one"), ([(1, 8), [1, 8]], LossError, "must not repeat"),
    ([(1, 8, 2)], SizeError, r"pairs \(layer, dim\), got \(1, 8, 2\)"), ([(5, 8)], SizeError, "from 1 to 4 .* got 5"),
    ([(1, 17)], SizeError, "from 1 to 16 .* got 17"), ([(1, True)], SizeError, "from 1 to 16 .* got True"),
])  # fmt: skip
def test_sizes_that_do_not_exist_are_refused(sizes, error, text):
    with pytest.raises(error, match=text):
        check_sizes(sizes, (4, 16))


def test_the_menu_follows_the_paper_in_proportion():
    assert starbucks_menu(12, 768) == [(2, 32), (4, 64), (6, 128), (8, 256), (10, 512)]  # the paper's own
    assert starbucks_menu(6, 384) == [(1, 16), (2, 32), (3, 64), (4, 128), (5, 256)]
    assert all(layer < 2 and dim >= 1 for layer, dim in starbucks_menu(2, 8))


def test_what_has_to_be_positive_is_named():
    check_positive(scale=0.1, temperature=float("inf"))
    for wrong in (0, -1.0, float("nan")):
        with pytest.raises(LossError, match=f"scale must be > 0, got {wrong}"):
            check_positive(temperature=1.0, scale=wrong)
