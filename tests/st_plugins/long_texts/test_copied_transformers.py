import pytest

from st_plugins.errors import UnsupportedModelError
from st_plugins.long_texts.copied_transformers import copied_transformer, with_transformer


def test_all_but_the_weights_is_a_copy(plain):
    copied = copied_transformer(plain, "a test")
    network, old = copied.auto_model, plain[0].auto_model
    assert all(one is other for one, other in zip(network.parameters(), old.parameters(), strict=True))
    assert network.config is not old.config
    assert network.encoder.config is network.config
    assert copied.tokenizer is not plain.tokenizer
    network.embeddings.word_embeddings.weight = None
    assert old.embeddings.word_embeddings.weight is not None


def test_the_rest_of_the_model_stays(plain):
    plain.prompts["query"] = "find: "
    changed = with_transformer(plain, copied_transformer(plain, "a test"))
    assert changed.prompts == plain.prompts
    assert list(changed.children())[1:] == list(plain.children())[1:]


def test_a_replaced_forward_is_refused(plain):
    plain[0].forward = lambda features: features
    with pytest.raises(
        UnsupportedModelError, match="a test needs a model whose first module is a Transformer with the"
    ):
        copied_transformer(plain, "a test")
