"""Which prompt goes in front; against sentence-transformers itself in ``test_runtime.py``."""

from dataclasses import replace

import pytest

from st_plugins.errors import InputError
from st_plugins_export.layout import read_manifest
from st_plugins_export.prompts import resolve_prompt, usual_prompt, with_prompt


@pytest.fixture
def manifest(exported):
    return replace(read_manifest(exported), prompts={"passage": "p: ", "corpus": "c: "}, default_prompt_name="corpus")


def test_a_prompt_goes_before_its_name_and_both_before_the_default(manifest):
    assert resolve_prompt(manifest, "x ", "passage") == "x "
    assert resolve_prompt(manifest, None, "passage") == "p: "
    assert resolve_prompt(manifest, None, None) == "c: "
    assert resolve_prompt(manifest, "", None) == ""
    with pytest.raises(InputError, match=r"one of the model's prompts, \['passage', 'corpus'\], got 'query'"):
        resolve_prompt(manifest, None, "query")


def test_a_model_that_pools_without_prompts_takes_none_of_an_early_export(manifest):
    without = replace(manifest, include_prompt=False)
    assert resolve_prompt(without, "", None) == ""
    with pytest.raises(InputError, match="graphs of early releases cannot do.*got 'c: '.*Export the model again"):
        resolve_prompt(without, None, None)
    assert resolve_prompt(replace(without, special_ids=()), None, None) == "c: "


def test_the_first_name_the_model_has_is_usual_unless_the_call_names_one(manifest):
    assert usual_prompt(manifest, "document", None, None) == "passage"
    assert usual_prompt(manifest, "document", None, "corpus") == "corpus"
    assert usual_prompt(manifest, "document", "x", None) is None
    assert usual_prompt(manifest, "query", None, None) is None


def test_only_texts_are_texts():
    assert with_prompt("a", "p: ") == ["p: a"]
    assert with_prompt(("a", "b"), "") == ["a", "b"]
    with pytest.raises(TypeError, match="must be a string, got int at position 1"):
        with_prompt(["a", 3], "")
