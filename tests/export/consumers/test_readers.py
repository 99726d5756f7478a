"""Five readers of the files beside the graph, rebuilt from what their sources demand; none may fall back to a default.

text-embeddings-inference (router/src/lib.rs, backends/ort/src/lib.rs of v1.9), vLLM, and sentence-transformers before
and since 5.4. Where a reader runs the graph itself, its vectors are compared with torch.
"""

import json

import numpy as np
import onnxruntime
import pytest
from sentence_transformers.sentence_transformer.modules import Pooling
from sentence_transformers.util import import_from_string
from tokenizers import Tokenizer

# Parameters of Pooling in sentence-transformers 2.3 to 5.3, which passed the file on as it was.
OLD_POOLING = {
    "word_embedding_dimension",
    "pooling_mode",
    "pooling_mode_cls_token",
    "pooling_mode_max_tokens",
    "pooling_mode_mean_tokens",
    "pooling_mode_mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens",
    "pooling_mode_lasttoken",
    "include_prompt",
}
BATCH = 8  # the most that TEI runs at once on ONNX


@pytest.fixture(params=["bert", "dense"])
def opened(request):
    """A model, and its export with the default layout."""
    if request.param == "bert":
        return request.getfixturevalue("elastic"), request.getfixturevalue("exported")
    return request.getfixturevalue("dense"), request.getfixturevalue("dense_export")


def read(folder, name, required=()):
    """A file of required entries, each of its type: serde refuses anything else."""
    entries = json.loads((folder / name).read_text(encoding="utf-8"))
    for entry, kind in dict(required).items():
        assert type(entries[entry]) is kind, f"{name}: {entry} = {entries[entry]!r}"
    return entries


def tei_settings(folder):
    config = read(
        folder,
        "config.json",
        {"model_type": str, "architectures": list, "hidden_size": int, "num_hidden_layers": int, "pad_token_id": int},
    )
    assert type(config["max_position_embeddings"]) is int
    assert not any(name.endswith("Classification") for name in config["architectures"])
    flags = ("pooling_mode_cls_token", "pooling_mode_mean_tokens", "pooling_mode_max_tokens")
    flags += ("pooling_mode_mean_sqrt_len_tokens", "pooling_mode_lasttoken")
    pooling = read(folder, "1_Pooling/config.json", dict.fromkeys(flags, bool))
    limit = read(folder, "sentence_bert_config.json", {"max_seq_length": int})["max_seq_length"]
    side = read(folder, "tokenizer_config.json")["padding_side"]
    assert side in ("left", "right")
    chosen = next(name for name in (flags[0], flags[1], flags[4]) if pooling[name])  # the first one that is set
    return config, chosen, limit, side


def pool(states, mask, chosen, side):
    last = mask.shape[1] - 1 if side == "left" else mask.sum(axis=1) - 1
    first = mask.shape[1] - mask.sum(axis=1) if side == "left" else 0
    rows = np.arange(len(mask))
    mean = (states * mask[..., None]).sum(axis=1) / mask.sum(axis=1, keepdims=True)
    by_name = {"pooling_mode_cls_token": states[rows, first], "pooling_mode_lasttoken": states[rows, last]}
    return by_name.get(chosen, mean)


def test_text_embeddings_inference_gives_the_vectors_of_torch(opened, consumer_texts):
    model, folder = opened
    config, chosen, limit, side = tei_settings(folder)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(limit)
    session = onnxruntime.InferenceSession(folder / "onnx" / "model.onnx")
    assert {tensor.type for tensor in session.get_outputs()} == {"tensor(float)"}
    texts = [*consumer_texts.short, consumer_texts.long][:BATCH]
    encodings = tokenizer.encode_batch(texts)
    for encoding in encodings:
        encoding.pad(max(map(len, encodings)), direction=side, pad_id=config["pad_token_id"], pad_type_id=0)
    mask = np.array([encoding.attention_mask for encoding in encodings])
    tensors = {
        "input_ids": np.array([encoding.ids for encoding in encodings]),
        "attention_mask": mask,
        "token_type_ids": np.array([encoding.type_ids for encoding in encodings]),
    }
    inputs = {tensor.name: tensors[tensor.name] for tensor in session.get_inputs()}
    states, sentences = session.run(["last_hidden_state", "sentence_embedding"], inputs)
    expected = model.encode(texts)
    np.testing.assert_allclose(sentences, expected, atol=1e-5, rtol=0)  # what it takes
    np.testing.assert_allclose(pool(states, mask, chosen, side), expected, atol=1e-5, rtol=0)  # what older ones take


def test_vllm_reads_pooling_and_normalization(opened):
    model, folder = opened
    modules = read(folder, "modules.json")
    (path,) = (module["path"] for module in modules if module["type"] == "sentence_transformers.models.Pooling")
    assert any(module["type"] == "sentence_transformers.models.Normalize" for module in modules)
    pooling = read(folder, f"{path}/config.json")
    first_set = next(name for name, value in pooling.items() if value is True)
    expected = {"mean": "pooling_mode_mean_tokens", "lasttoken": "pooling_mode_lasttoken"}
    assert first_set == expected[pooling["pooling_mode"]]
    assert pooling["word_embedding_dimension"] == model.get_embedding_dimension()
    assert "max_seq_length" in read(folder, "sentence_bert_config.json")


def test_sentence_transformers_before_5_4_knows_every_entry(opened):
    _, folder = opened
    modules = read(folder, "modules.json")
    assert [set(module) for module in modules] == [{"idx", "name", "path", "type"}] * len(modules)
    assert all(module["type"].startswith("sentence_transformers.models.") for module in modules)
    pooling = read(folder, "1_Pooling/config.json", {"word_embedding_dimension": int, "pooling_mode": str})
    assert set(pooling) <= OLD_POOLING
    assert set(read(folder, "sentence_bert_config.json")) == {"max_seq_length", "do_lower_case"}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the old names
def test_sentence_transformers_since_5_4_loads_every_module_behind_the_graph(opened):
    model, folder = opened
    for module in read(folder, "modules.json")[1:]:
        loaded = import_from_string(module["type"]).load(str(folder / module["path"]))
        if isinstance(loaded, Pooling):
            assert loaded.embedding_dimension == model.get_embedding_dimension()
