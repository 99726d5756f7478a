import pytest
import torch

from pooling_cases import flattened, padded
from st_plugins.errors import ShapeError
from st_plugins.token_pooling import padded_states, pooling_mask

TEXTS = [torch.arange(1.0, 4.0)[:, None], torch.arange(10.0, 15.0)[:, None], torch.tensor([[20.0]])]


def features_of(side="right", **more):
    tokens, mask = padded(TEXTS, side)
    return {"token_embeddings": tokens, "attention_mask": mask, **more}


def pooled_values(features, include_prompt):
    mask = pooling_mask(features, include_prompt=include_prompt)
    states = padded_states(features["token_embeddings"], features, mask)
    assert not states[~mask].any(), "what is not pooled is zero"
    return [states[row, mask[row], 0].tolist() for row in range(len(mask))]


@pytest.mark.parametrize("side", ["right", "left", "both"])
@pytest.mark.parametrize("length", [2, torch.tensor([2]), torch.tensor([2, 2, 2]), torch.tensor(2)])
def test_a_prompt_is_left_out_wherever_the_padding_is(side, length):
    assert pooled_values(features_of(side, prompt_length=length), True) == [[1, 2, 3], [10, 11, 12, 13, 14], [20]]
    assert pooled_values(features_of(side, prompt_length=length), False) == [[3], [12, 13, 14], []]


def test_each_row_may_have_a_prompt_of_its_own():
    features = features_of("left", prompt_length=torch.tensor([1, 4, 0]))
    assert pooled_values(features, False) == [[2, 3], [14], [20]]


@pytest.mark.parametrize("prompt", [{}, {"prompt_length": None}, {"prompt_length": 0}])
def test_without_a_prompt_nothing_is_left_out(prompt):
    assert pooled_values(features_of(**prompt), False) == [[1, 2, 3], [10, 11, 12, 13, 14], [20]]


@pytest.mark.parametrize("include_prompt", [True, False])
def test_flattened_inputs_are_the_padded_ones(include_prompt):
    flat, ends = flattened(TEXTS)
    features = {"token_embeddings": flat, "cu_seq_lens_q": ends, "prompt_length": 2}
    assert pooled_values(features, include_prompt) == pooled_values(features_of(prompt_length=2), include_prompt)


def test_without_a_mask_every_token_counts():
    assert pooling_mask({"token_embeddings": torch.ones(2, 3, 4)}, include_prompt=True).tolist() == [[True] * 3] * 2


def test_the_features_are_left_as_they_are():
    features = features_of(prompt_length=2)
    mask = features["attention_mask"].clone()
    pooling_mask(features, include_prompt=False)
    assert features["attention_mask"].equal(mask)


@pytest.mark.parametrize("dtype", [torch.bool, torch.int32, torch.float32])
def test_masks_of_any_kind(dtype):
    features = features_of("left")
    expected = pooling_mask(features, include_prompt=True)
    features["attention_mask"] = features["attention_mask"].to(dtype)
    assert pooling_mask(features, include_prompt=True).equal(expected)


def test_a_mask_for_other_tokens_is_refused():
    features = {"token_embeddings": torch.ones(2, 3, 4), "attention_mask": torch.ones(2, 5)}
    with pytest.raises(ShapeError, match=r"one entry for each token, \(2, 3\), got \(2, 5\). Pool right behind"):
        pooling_mask(features, include_prompt=True)


def test_of_two_columns_run_as_one_batch_the_host_names_the_prompt_of_one():
    features = {"token_embeddings": torch.ones(4, 3, 2), "attention_mask": torch.ones(4, 3)}
    of_one_column = pooling_mask({**features, "prompt_length": torch.tensor([2, 2])}, include_prompt=False)
    assert of_one_column.tolist() == [[False, False, True]] * 4
