"""Exits of three kinds of encoders; the vectors are those of the encoder's own calls."""

import numpy as np
import pytest

from langchain_st_plugins.exit_calls import encode_with_exits, exit_fingerprint, is_sentence_transformer
from st_plugins.errors import ExitError
from toy_encoder import exit_layer

TEXTS = ["one text", "another", "a third one"]


class _Plain:
    """Has exits, but does not say where texts left."""

    def encode_query(self, texts, **options):
        self.options = options
        return np.ones((len(texts), 2))

    encode_document = encode_query


def test_an_encoders_own_method_is_used(encoder):
    vectors, layers = encode_with_exits(encoder, "query", TEXTS, exit="balanced", show_progress_bar=False)
    assert layers.tolist() == [exit_layer(text, "balanced") for text in TEXTS]
    for text, layer, vector in zip(TEXTS, layers, vectors, strict=True):
        np.testing.assert_array_equal(vector, encoder.encode_query([text], layer=layer, show_progress_bar=False)[0])


def test_an_encoder_without_one_is_told_the_exit_and_says_nothing():
    plain = _Plain()
    vectors, layers = encode_with_exits(plain, "document", TEXTS, exit=0.9, truncate_dim=1)
    assert (vectors.shape, layers, plain.options) == ((3, 2), None, {"exit": 0.9, "truncate_dim": 1})
    assert exit_fingerprint(plain, 0.9, allow_untrained=False) == "0.9"


def test_a_policy_has_the_identity_the_encoder_gives_it(encoder):
    assert exit_fingerprint(encoder, "fast", allow_untrained=False) == "toy/1 fast"
    with pytest.raises(ExitError, match=r"policies of this encoder, \['balanced', 'fast'\], got 'bold'"):
        exit_fingerprint(encoder, "bold", allow_untrained=False)


def test_only_sentence_transformers_are_taken_for_one(encoder):
    assert not is_sentence_transformer(encoder)


def test_an_encoder_with_routes_is_asked_on_the_route_of_the_texts(encoder):
    class Routed(_Plain):
        prompts = {"query": "find: "}  # noqa: RUF012

        def for_task(self, task):
            self.task = task
            return encoder

        def encode_with_exits(self, texts, **options):
            raise AssertionError("the default route")

    routed = Routed()
    found = encode_with_exits(routed, "query", TEXTS, exit="balanced", show_progress_bar=False)[0]
    assert routed.task == "query"
    np.testing.assert_array_equal(
        found, encode_with_exits(encoder, "query", TEXTS, exit="balanced", show_progress_bar=False)[0]
    )
