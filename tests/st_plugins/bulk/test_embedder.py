import numpy as np
import pytest

import st_plugins
from st_plugins.bulk import BulkEmbedder, JobSettings
from st_plugins.errors import BulkError, ExitError, SizeError
from st_plugins.exits import ExitPolicy, Saturation
from st_plugins_export import export_onnx

TEXTS = ["the cat sat", "a dog ran on the mat", "it", "red and blue " * 30]


@pytest.fixture(params=["torch", "onnx"])
def embedder(request, model, tmp_path):
    folder = tmp_path / request.param
    if request.param == "torch":
        model.save_pretrained(str(folder))
    else:
        export_onnx(model, folder)
    return BulkEmbedder(JobSettings(str(folder), device="cpu"))


def test_good_texts_get_what_encode_gives(embedder, model):
    embedded = embedder.embed(TEXTS)
    np.testing.assert_allclose(embedded.vectors, model.encode_document(TEXTS), atol=1e-6)
    assert embedded.errors == [None] * 4
    assert embedded.truncated == 1
    assert embedder.dim == 16


def test_a_bad_text_gets_an_error_and_the_others_their_vectors(embedder, model):
    embedded = embedder.embed([None, "it", " \n", "a \ud800 dog", 7, float("nan"), "a dog"])
    good = [1, 6]
    np.testing.assert_allclose(embedded.vectors[good], model.encode(["it", "a dog"]), atol=1e-6)
    assert not embedded.vectors[[0, 2, 3, 4, 5]].any()
    assert embedded.errors == [
        "no text: NoneType", None, "the text is blank",
        "the text is not valid Unicode: a lone surrogate at character 2", "no text: int", "no text: float", None,
    ]  # fmt: skip


def test_no_texts_are_no_vectors(embedder):
    assert embedder.embed([]).vectors.shape == (0, 16)


class Fragile:
    """An encoder with bad days."""

    def __init__(self, model):
        self.prompts = {}
        self.model, self.tokenizer, self.max_seq_length, self.calls, self.is_broken = (
            model,
            model.tokenizer,
            32,
            [],
            False,
        )

    def encode_document(self, texts, **options):
        self.calls.append(len(texts))
        if self.is_broken or "mat" in texts:
            raise RuntimeError("out of memory")
        vectors = self.model.encode(texts)
        vectors[[text == "tree" for text in texts]] = np.nan
        return vectors


@pytest.fixture
def fragile(settings, model):
    embedder = BulkEmbedder(settings)
    embedder._encoder = Fragile(model)
    return embedder


def test_a_text_the_encoder_fails_on_is_found_by_halving(fragile, model):
    embedded = fragile.embed(["it", "mat", "tree", "cat", "dog"])
    assert embedded.errors == [None, "RuntimeError: out of memory", "the vector is not finite", None, None]
    np.testing.assert_allclose(embedded.vectors[[0, 3, 4]], model.encode(["it", "cat", "dog"]), atol=1e-6)
    assert not embedded.vectors[[1, 2]].any()
    assert max(fragile._encoder.calls) == 5


def test_a_broken_encoder_is_nobodys_bad_text(fragile):
    fragile._encoder.is_broken = True
    with pytest.raises(RuntimeError, match="out of memory"):
        fragile.embed(["it", "cat"])


def test_batches_keep_to_the_token_budget(folder, model):
    embedder = BulkEmbedder(JobSettings(folder, device="cpu", token_budget=12))
    embedder._encoder = Fragile(model)
    texts = ["it", "a dog ran fast", "a cat", "is", "was", "to", "cat " * 40]
    np.testing.assert_allclose(embedder.embed(texts).vectors, model.encode(texts), atol=1e-6)
    assert embedder._encoder.calls == [1, 2, 4]  # 32 tokens; 6 and 4; 3 each


def test_it_is_called_with_columns(embedder):
    columns = {"key": np.array([1, 2]), "text": np.array(["it", None], dtype=object)}
    answer = embedder(columns)
    assert list(answer) == ["key", "text", "embedding", "error"]
    assert answer["embedding"].shape == (2, 16)
    assert answer["error"].tolist() == [None, "no text: NoneType"]


def test_the_size_and_the_exit_are_those_of_the_settings(model, folder, tmp_path):
    elastic = st_plugins.load(folder)
    elastic[0].sizes = [(1, 16), (2, 16), (2, 8)]
    elastic[0].add_exit_policy(ExitPolicy("mine", Saturation(), 0.5, (1, 2, elastic[0].depth)))
    elastic.save_pretrained(str(tmp_path / "trained"))
    small = BulkEmbedder(JobSettings(str(tmp_path / "trained"), device="cpu", layer=2, truncate_dim=8))
    np.testing.assert_allclose(small.embed(TEXTS).vectors, elastic.encode(TEXTS, layer=2, truncate_dim=8), atol=1e-6)
    leaving = BulkEmbedder(JobSettings(str(tmp_path / "trained"), device="cpu", exit="mine"))
    np.testing.assert_allclose(leaving.embed(TEXTS).vectors, elastic.encode(TEXTS, exit="mine"), atol=1e-6)
    with pytest.raises(SizeError, match="layer"):
        BulkEmbedder(JobSettings(folder, device="cpu", layer=99))
    with pytest.raises(ExitError, match="none"):
        BulkEmbedder(JobSettings(str(tmp_path / "trained"), device="cpu", exit="none"))


@pytest.mark.slow
def test_the_fingerprint_is_that_of_the_vectors(model, tmp_path):
    model[0].sizes = [(1, 16), (2, 16)]
    model[0].add_exit_policy(ExitPolicy("mine", Saturation(), 0.5, (1, 2, model[0].depth)))
    model.save_pretrained(str(tmp_path / "torch"))
    export_onnx(model, tmp_path / "onnx", sizes=[(2, 16)], exits=["mine"], precisions=["fp16"])

    def fingerprint(name, **options):
        return BulkEmbedder(JobSettings(str(tmp_path / name), device="cpu", **options)).fingerprint

    same = [{}, {"layer": 2}, {"exit": "mine"}, {"task": "query"}]
    of_torch = [fingerprint("torch", **options) for options in same]
    assert of_torch == [fingerprint("onnx", **options) for options in same]
    assert len({*of_torch, fingerprint("onnx", precision="fp16")}) == 5
    assert fingerprint("torch", threads=1, token_budget=7) == of_torch[0]


def test_the_fingerprint_is_computed_once(embedder, monkeypatch):
    before = embedder.fingerprint
    monkeypatch.setattr(embedder, "_encoder", None)  # it hashes every weight: not for each shard again
    assert embedder.fingerprint == before


def test_a_model_that_is_not_so_wide_is_refused(model, tmp_path):
    model.save_pretrained(str(tmp_path / "model"))
    with pytest.raises(BulkError, match="truncate_dim must be at most 16, as wide as the vectors, got 99"):
        BulkEmbedder(JobSettings(str(tmp_path / "model"), device="cpu", truncate_dim=99))
