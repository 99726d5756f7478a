"""The Triton models, with a stand-in for the few names they take from Triton; a real server: ``consumers/``."""

import importlib.util
import json
import shutil
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from tokenizers import Tokenizer


class Tensor:
    def __init__(self, name, values):
        self.name, self.values = name, values

    def as_numpy(self):
        return self.values


@pytest.fixture
def load_model(monkeypatch):
    """``load_model(folder, config)``: the TritonPythonModel of a folder of a model repository, initialized."""
    triton = SimpleNamespace(
        Tensor=Tensor,
        TritonError=str,
        InferenceResponse=lambda output_tensors, error=None: SimpleNamespace(tensors=output_tensors, error=error),
        get_input_tensor_by_name=lambda request, name: request[name],
    )
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", triton)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def load(folder, config):
        spec = importlib.util.spec_from_file_location("triton_model", folder / "1" / "model.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        model = module.TritonPythonModel()
        model.initialize({"model_config": json.dumps(config), "model_repository": str(folder)})
        return model

    yield load
    sys.modules.pop("text_embedder", None)


def request(*texts):
    raw = [text if isinstance(text, bytes) else text.encode() for text in texts]
    return {"text": Tensor("text", np.array(raw, dtype=object).reshape(-1, 1))}


@pytest.fixture
def embedding(exported, load_model):
    settings = {"export_folder": "../../..", "graph": "onnx/model.onnx"}
    parameters = {name: {"string_value": value} for name, value in settings.items()}
    return load_model(exported / "serving" / "triton" / "embedding", {"parameters": parameters})


def test_requests_share_a_batch_and_get_their_own_vectors(embedding, elastic, texts):
    answers = embedding.execute([request(*texts[:2]), request(texts[3]), request(*texts[4:])])
    found = [answer.tensors[0].values for answer in answers]
    assert [len(vectors) for vectors in found] == [2, 1, len(texts) - 4]
    expected = elastic.encode([*texts[:2], texts[3], *texts[4:]])
    np.testing.assert_allclose(np.concatenate(found), expected, atol=1e-5, rtol=0)
    assert all(answer.tensors[0].name == "sentence_embedding" and answer.error is None for answer in answers)


def test_a_request_that_fails_fails_alone(embedding, elastic, monkeypatch):
    answers = embedding.execute([request("cats"), request(b"\xff")])
    assert "utf-8" in answers[1].error
    np.testing.assert_allclose(answers[0].tensors[0].values, elastic.encode(["cats"]), atol=1e-5, rtol=0)
    embed = embedding._embedder.embed

    def no_sleep(texts):
        if "sleep" in texts:
            raise ValueError("no sleep")
        return embed(texts)

    monkeypatch.setattr(embedding._embedder, "embed", no_sleep)
    answers = embedding.execute([request("cats"), request("cats", "sleep")])
    assert answers[1].error == "no sleep"
    np.testing.assert_allclose(answers[0].tensors[0].values, elastic.encode(["cats"]), atol=1e-5, rtol=0)


def test_tokens_of_all_requests_have_one_length(exported, load_model, tmp_path, texts):
    folder = shutil.copytree(exported / "serving" / "triton_ensemble" / "tokenize", tmp_path / "tokenize")
    shutil.copy(exported / "tokenizer.json", folder / "1")
    model = load_model(folder, {"output": [{"name": "input_ids"}, {"name": "attention_mask"}]})
    answers = model.execute([request(*texts[:2]), request(b"\xff"), request(texts[4])])
    assert "utf-8" in answers[1].error
    expected = Tokenizer.from_file(str(exported / "tokenizer.json")).encode_batch([*texts[:2], texts[4]])
    for index, field in enumerate(("ids", "attention_mask")):
        found = np.concatenate([answers[0].tensors[index].values, answers[2].tensors[index].values])
        assert found.dtype == np.int64
        assert found.tolist() == [getattr(encoding, field) for encoding in expected]
