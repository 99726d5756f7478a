import numpy as np
import pytest
from pydantic import ValidationError

from langchain_st_plugins import ElasticEmbeddings
from st_plugins.errors import InputError, ShapeError, SizeError, UntrainedSizeError


@pytest.mark.parametrize(
    ("texts", "error", "message"),
    [
        ("hello", TypeError, r"texts must be a list of str, got str\. Write \[text\]"),
        (b"hello", TypeError, r"texts must be a list of str, got bytes"),
        (None, TypeError, r"texts must be a list of str, got NoneType"),
        (iter(["a"]), TypeError, r"got list_iterator.*list\(texts\)"),
        (["a", None], TypeError, r"the one at position 1 is NoneType\. Leave it out"),
        (["a", "b", 3], TypeError, r"the one at position 2 is int"),
        ([""], InputError, r"the one at position 0 is blank\. Leave it out"),
        (["a", " \n\t"], InputError, r"the one at position 1 is blank"),
    ],
)
def test_bad_texts_are_refused_by_position_before_the_encoder_runs(encoder, embeddings, texts, error, message):
    with pytest.raises(error, match=message):
        embeddings.embed_documents(texts)
    assert encoder.calls == []


@pytest.mark.parametrize(
    ("size", "error", "message"),
    [
        ({"dim": 0}, SizeError, r"dim must be an integer of at least 1 or None, got 0\."),
        ({"layer": -1}, SizeError, r"layer must be an integer of at least 1 or None, got -1\."),
        ({"dim": 8.0}, TypeError, r"dim must be an integer of at least 1 or None, got 8\.0"),
        ({"layer": True}, TypeError, r"layer must be an integer of at least 1 or None, got True"),
    ],
)
def test_bad_sizes_are_refused_before_the_encoder_runs(encoder, embeddings, size, error, message):
    for call in (lambda: embeddings.encode(["a"], **size), lambda: embeddings.with_budget(**size)):
        with pytest.raises(error, match=message):
            call()
    assert encoder.calls == []


def test_sizes_the_model_does_not_have_are_refused(embeddings):
    with pytest.raises(SizeError, match=r"dim must be from 1 to 32, the width of the embeddings, got 33\."):
        embeddings.encode(["a"], dim=33)
    with pytest.raises(UntrainedSizeError, match=r"layer must be one of \(2, 4, 6\), got 3\."):
        embeddings.encode(["a"], layer=3)
    with pytest.raises(ValueError, match=r'kind must be "document" or "query", got \'passage\'\.'):
        embeddings.encode(["a"], kind="passage")


@pytest.mark.parametrize(
    ("returned", "error", "message"),
    [
        ([[1, 0], [np.nan, 1]], InputError, r"the one at position 1 holds NaN or infinity\. Look at that text"),
        ([[np.inf, 0], [1, 1]], InputError, r"the one at position 0 holds NaN or infinity"),
        ([[1, 0], [0, 0]], InputError, r"the one at position 1 is, at dim=2\. Such a text cannot be compared"),
        ([[1, 0]], ShapeError, r"one row per text, got 1 for 2 texts"),
        ([1, 0], ShapeError, r"shape \(texts, width\), got \(2,\)"),
    ],
)
def test_what_an_encoder_may_not_return(returned, error, message):
    class Broken:
        def encode_document(self, texts, *, show_progress_bar):
            return np.array(returned, dtype=np.float16)

        encode_query = encode_document

    with pytest.raises(error, match=message):
        ElasticEmbeddings(encoder=Broken()).embed_documents(["a", "b"])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, r"exactly one of model and encoder, got neither\. Pass model="),
        ({"model": "x", "encoder": "toy"}, r"exactly one of model and encoder, got both"),
        ({"encoder": object()}, r"object has no encode_query and no encode_document\. Pass a SentenceTransformer"),
        ({"encoder": "toy", "device": "cpu"}, r"device is for model=, got 'cpu' with an encoder"),
        ({"encoder": "toy", "threads": 1}, r"threads is for model=, got 1 with an encoder\. Set up"),
        ({"encoder": "toy", "backend": "onnx"}, r"backend is for model=, got 'onnx' with an encoder"),
        ({"model": "x", "backend": "tf"}, r"backend\n.*'auto', 'torch' or 'onnx'"),
        ({"encoder": "toy", "exit": True}, r"exit"),
        ({"encoder": "toy", "layer": 0}, r"layer\n.*greater than or equal to 1"),
        ({"encoder": "toy", "dim": -4}, r"dim\n.*greater than or equal to 1"),
        ({"encoder": "toy", "dimension": 4}, r"dimension\n.*Extra inputs are not permitted"),
    ],
)
def test_bad_fields_are_refused_at_construction(encoder, fields, message):
    fields = {name: encoder if value == "toy" else value for name, value in fields.items()}
    with pytest.raises(ValidationError, match=message):
        ElasticEmbeddings(**fields)
