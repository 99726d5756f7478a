"""Folders with mutated files: they load, or an error of ours says why not. Ten thousand in the slow tests."""

import json
import logging
import struct

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import st_plugins
from st_plugins.errors import StPluginsError
from st_plugins_export import OnnxEncoder

MODEL_FILES = ["modules.json", "config.json", "sentence_bert_config.json", "config_sentence_transformers.json",
               "1_Pooling/config.json", "3_Truncation/config.json", "tokenizer_config.json"]  # fmt: skip
FEW, MANY = 15, 10_000
NUMBERS = st.sampled_from([0, -1, 1, 2**31, 2**63, 10**30, -(10**9), 0.5, 1e308, float("nan"), float("inf")])
TEXTS = st.one_of(
    st.text(st.characters(codec=None, categories=None), max_size=12),
    st.sampled_from(["../x", "/etc/passwd", "os.system", "a\0b", "\u202e", "x" * 5000, "torch.nn.Module", "cpu"]),
)
JUNK = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=5,
)
ANYHOW = {"deadline": None, "suppress_health_check": list(HealthCheck), "database": None, "derandomize": True}


def places(content, path=()):
    """Where something can be put in the place of something else."""
    yield path
    for key, value in content.items() if isinstance(content, dict) else enumerate(content):
        if isinstance(value, dict | list):
            yield from places(value, (*path, key))
        else:
            yield (*path, key)


def changed(content, path, junk):
    """The same with junk at one place."""
    if not path:
        return junk
    copied = dict(content) if isinstance(content, dict) else list(content)
    copied[path[0]] = changed(content[path[0]], path[1:], junk)
    return copied


@st.composite
def mutated_json(draw, text):
    """JSON with up to two values replaced, or its bytes damaged."""
    content = json.loads(text)
    if draw(st.integers(0, 4)) == 0:
        start = draw(st.integers(0, len(text)))
        middle = draw(st.sampled_from(["", "null", "[", "}", '"', "9" * 5000, "\\ud800", ","]))
        return (text[:start] + middle + text[start + draw(st.integers(0, 12)) :]).encode()
    for _ in range(draw(st.integers(1, 2))):
        if not isinstance(content, dict | list):
            break
        content = changed(content, draw(st.sampled_from(list(places(content)))), draw(JUNK))
    return json.dumps(content).encode()


@st.composite
def mutated_weights(draw, content):
    """A safetensors file with another header, another length of it, or other bytes."""
    length = struct.unpack("<Q", content[:8])[0]
    header, data = content[8 : 8 + length].decode(), content[8 + length :]
    kind = draw(st.integers(0, 2))
    if kind == 0:
        return content[: draw(st.integers(0, len(content)))]
    if kind == 1:
        return struct.pack("<Q", draw(st.integers(0, 2**64 - 1))) + content[8:]
    mutated = draw(mutated_json(header))
    return struct.pack("<Q", len(mutated)) + mutated + data


def loads_or_is_refused(folder):
    try:
        st_plugins.load(folder, device="cpu").encode(["the cat"])
    except StPluginsError:
        return "refused"
    return "loaded"


def fuzz_files(folder, examples, fates):
    originals = {name: (folder / name).read_text() for name in MODEL_FILES}

    @settings(max_examples=examples, **ANYHOW)
    @given(st.data(), st.sampled_from(MODEL_FILES))
    def run(data, name):
        (folder / name).write_bytes(data.draw(mutated_json(originals[name])))
        try:
            fates.append(loads_or_is_refused(folder))
        finally:
            (folder / name).write_text(originals[name])

    run()


def fuzz_weights(folder, examples, fates):
    original = (folder / "model.safetensors").read_bytes()

    @settings(max_examples=examples, **ANYHOW)
    @given(mutated_weights(original))
    def run(content):
        (folder / "model.safetensors").write_bytes(content)
        fates.append(loads_or_is_refused(folder))

    run()


def fuzz_manifests(folder, examples, fates):
    original = (folder / "manifest.json").read_text()

    @settings(max_examples=examples, **ANYHOW)
    @given(mutated_json(original))
    def run(content):
        (folder / "manifest.json").write_bytes(content)
        try:
            OnnxEncoder(folder).encode(["the cat"])
            fates.append("loaded")
        except StPluginsError:
            fates.append("refused")

    run()


@pytest.fixture(autouse=True)
def _quiet():
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


FUZZERS = {"files": fuzz_files, "weights": fuzz_weights, "manifests": fuzz_manifests}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", FUZZERS)
def test_mutated_folders_load_or_are_refused(saved, exported, kind):
    fates = []
    FUZZERS[kind](exported if kind == "manifests" else saved, FEW, fates)
    assert set(fates) == {"loaded", "refused"}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", FUZZERS)
def test_ten_thousand_mutated_folders_load_or_are_refused(saved, exported, kind):
    fates = []
    FUZZERS[kind](exported if kind == "manifests" else saved, MANY // len(FUZZERS) + 1, fates)
    assert len(fates) >= MANY // len(FUZZERS)
