import copy

import pytest
import torch

from st_plugins.errors import InputError, NonFiniteError
from st_plugins.finite_vectors import check_finite
from st_plugins.modules import Truncation


def spoil(model, word, value=torch.nan):
    """A number in the row of one word of the vocabulary: texts without that word do not notice."""
    with torch.no_grad():
        model[0].model.get_input_embeddings().weight[model.tokenizer.convert_tokens_to_ids(word)] = value
    return model


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_rows_tokens_and_dtype_are_named(bad):
    vectors = torch.ones(8, 4)
    vectors[[1, 2, 3, 4, 5, 7], 0] = bad
    mask = torch.ones(8, 9)
    mask[1, 3:] = 0
    message = (
        r"this batch of 8 \(float32\) holds .* at row 1 \(3 tokens\), 2 \(9 tokens\), .*, 5 \(9 tokens\) and 1 more"
    )
    with pytest.raises(NonFiniteError, match=message):
        check_finite({"sentence_embedding": vectors, "attention_mask": mask})
    with pytest.raises(InputError, match=r"at row 1, 2, 3, 4, 5 and 1 more\. One bad number among the weights"):
        check_finite({"sentence_embedding": vectors})


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_finite_rows_pass_and_zeros_too_but_for_float16(dtype):
    vectors = torch.tensor([[1.0, 0.0], [0.5, 0.5]], dtype=dtype)
    check_finite({"sentence_embedding": vectors})
    check_finite({"sentence_embedding": vectors[:0]})
    vectors[1] = 0
    if dtype == torch.float16:
        with pytest.raises(NonFiniteError, match=r"overflow at row 1\. Numbers overflow in float16 .* model.float\(\)"):
            check_finite({"sentence_embedding": vectors})
    else:
        check_finite({"sentence_embedding": vectors})


def test_what_overflows_in_float16_is_not_handed_out_as_zeros():
    large = torch.full((1, 64), 60_000.0, dtype=torch.float16)
    assert not torch.nn.functional.normalize(large).any()  # the length overflows, and everything is divided by it
    with pytest.raises(NonFiniteError, match="overflow at row 0"):
        Truncation().eval()({"sentence_embedding": torch.nn.functional.normalize(large)})


@pytest.mark.parametrize(
    "options", [{}, {"layer": 2}, {"truncate_dim": 8}, {"exit": -1.0}, {"convert_to_tensor": True}]
)
def test_no_way_to_encode_lets_nan_out(model, options):
    spoil(model, "cat")
    options = {**options, "allow_untrained": True}
    assert len(model.encode(["a dog ran"], **options)) == 1
    with pytest.raises(NonFiniteError, match=r"at row 1 \(4 tokens\)"):
        model.encode(["the dog sat on it", "a cat", "dog"], **options)


@pytest.mark.slow
def test_compiled_models_are_checked_too(model):
    compiled = spoil(copy.deepcopy(model), "cat")
    compiled.compile(backend="eager")
    assert compiled.encode(["a dog"]).shape == (1, 16)
    with pytest.raises(NonFiniteError, match="at row 0"):
        compiled.encode(["a cat"])


def test_training_sees_nan_as_before(model):
    spoil(model, "cat").train()
    features = model({**model.preprocess(["a cat"])})
    assert features["sentence_embedding"].isnan().all()


@pytest.mark.filterwarnings("ignore:.torch.jit.trace:DeprecationWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_graphs_are_traced_and_exported_without_the_check():
    vectors = torch.randn(2, 4)
    traced = torch.jit.trace(_Last(), vectors)
    assert traced(vectors * torch.nan).isnan().all()
    exported = torch.export.export(_Last(), (vectors,))
    assert exported.module()(vectors * torch.nan).isnan().all()


class _Last(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.truncation = Truncation(2).eval()

    def forward(self, vectors):
        return self.truncation({"sentence_embedding": vectors})["sentence_embedding"]
