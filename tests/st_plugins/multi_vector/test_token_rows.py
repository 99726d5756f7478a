import numpy as np
import pytest
import torch

import reference
from st_plugins.errors import InputError, ShapeError
from st_plugins.multi_vector.token_rows import maxsim_scores, ranked, token_arrays


def test_maxsim_is_the_formula_and_the_hosts():
    random = np.random.default_rng(0)
    query, documents = random.standard_normal((4, 5)), [random.standard_normal((n, 5)) for n in (3, 1, 8)]
    found = maxsim_scores(query, documents)
    assert np.allclose(found, [reference.maxsim(query, document) for document in documents], atol=1e-5)
    util = pytest.importorskip("sentence_transformers.util")
    if hasattr(util, "maxsim"):  # from sentence-transformers 6 on
        assert np.allclose(found, util.maxsim([torch.tensor(query)], list(map(torch.tensor, documents)))[0], atol=1e-5)
    assert maxsim_scores(query, []).shape == (0,)


def test_half_precision_is_kept_and_all_else_becomes_single():
    dtypes = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
    arrays = token_arrays([torch.ones(2, 3, dtype=dtype) for dtype in dtypes])
    assert [array.dtype for array in arrays] == [np.float16, np.float32, np.float32, np.float32]
    assert token_arrays([[[1, 2]]])[0].dtype == np.float32


def test_equal_scores_are_in_order():
    hits = ranked(np.array([5, 3, 4]), np.array([1.0, 1.0, 2.0]), 5)
    assert [hit["corpus_id"] for hit in hits] == [4, 3, 5]


def test_what_cannot_be_searched_is_refused():
    with pytest.raises(ShapeError, match=r"of shape \(tokens, 2\) for each text, got \(2, 3\) at row 1"):
        token_arrays([np.ones((1, 2)), np.ones((2, 3))])
    with pytest.raises(ShapeError, match=r"of shape \(tokens, width\) for each text, got \(3,\) at row 0"):
        token_arrays([np.ones(3)])
    with pytest.raises(InputError, match="text at row 0 has no tokens. Leave it out"):
        token_arrays([np.ones((0, 2))])
    with pytest.raises(InputError, match="tokens of the text at row 1 hold NaN or infinity"):
        token_arrays([np.ones((1, 2)), np.array([[np.nan, 1.0]])])
