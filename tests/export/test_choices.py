"""Which graph serves a call, and what there is none for."""

import numpy as np
import pytest

from st_plugins.errors import ExitError, InputError, SizeError
from st_plugins_export.choices import check_finite, checked_layers, cut, find_exit, find_size
from st_plugins_export.layout import read_manifest


@pytest.fixture
def manifest(exported_exits):
    return read_manifest(exported_exits)


def test_a_size_is_found_or_cut_from_a_wider_one(manifest):
    assert find_size(manifest, None, None) == (manifest.full, 32)
    assert find_size(manifest, 3, 8) == (manifest.full, 8)
    with pytest.raises(SizeError, match=r"\[\(3, 8\), \(3, 16\), \(3, 32\)\], got layer=2, truncate_dim=8"):
        find_size(manifest, 2, 8)


def test_a_policy_is_found_by_its_name_and_the_graph_that_is_told_without_one(manifest):
    assert find_exit(manifest, "saturation", None) == (manifest.exits[1], 32)
    assert find_exit(manifest, None, 8) == (manifest.exits[2], 8)
    with pytest.raises(ExitError, match=r"policies, \['gate', 'saturation'\], got 'fast'.* exits=\[name\]\)"):
        find_exit(manifest, "fast", None)


def test_a_dim_must_be_trained_at_every_exit(manifest):
    with pytest.raises(SizeError, match=r"at layers \[1, 2, 3\] have these dims: \[8, 16, 32\], got truncate_dim=9"):
        find_exit(manifest, "gate", 9)


def test_an_export_without_the_graph_that_is_told_says_how_to_get_it(exported):
    with pytest.raises(ExitError, match=r"this export has none.* layer_per_text=True"):
        find_exit(read_manifest(exported), None, None)


def test_every_text_needs_a_layer_of_the_export(manifest):
    told = manifest.exits[2]
    assert checked_layers([1, 3], told, 2).tolist() == [1, 3]
    assert checked_layers(np.array([2]), told, 1).dtype == np.int64
    with pytest.raises(InputError, match="one layer for each of the 3 texts, got 2"):
        checked_layers([1, 3], told, 3)
    with pytest.raises(SizeError, match=r"of the export, \[1, 2, 3\], got 4 at position 1"):
        checked_layers([1, 4], told, 2)


def test_cut_vectors_have_unit_length_and_zero_stays_zero():
    found = cut(np.array([[3.0, 4.0, 9.0], [0.0, 0.0, 9.0]], dtype=np.float32), 2)
    np.testing.assert_allclose(found, [[0.6, 0.8], [0.0, 0.0]], atol=1e-7)


def test_what_is_not_finite_is_named_by_its_place():
    vectors = np.ones((3, 2), dtype=np.float32)
    check_finite(vectors, np.array([7, 5, 6]))
    vectors[[0, 2], 1] = np.nan, np.inf
    with pytest.raises(InputError, match=r"NaN or infinity for the text at position 6\. Leave it out"):
        check_finite(vectors, np.array([7, 5, 6]))
    with pytest.raises(InputError, match="text at position 6 of its batch"):
        check_finite(vectors, np.array([7, 5, 6]), " of its batch")
