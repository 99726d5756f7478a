import copy

import pytest
from tokenizers import processors

from st_plugins.special_tokens import tokens_around


@pytest.mark.parametrize(
    ("template", "expected"),
    [("[CLS] $A [SEP]", (1, 1)), ("$A", (0, 0)), ("[CLS] [CLS] $A", (2, 0)), ("$A [SEP]", (0, 1))],
)
def test_they_are_counted_on_each_side(tokenizer, template, expected):
    other = copy.deepcopy(tokenizer)
    special = [("[CLS]", 2), ("[SEP]", 3)]
    other.backend_tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=special)
    assert tokens_around(other) == expected
