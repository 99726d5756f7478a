"""Sessions: opened once, on what was asked for, and again after a fork."""

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from st_plugins_export import OnnxEncoder, OnnxModule
from st_plugins_export import sessions as sessions_of_exports
from st_plugins_export.layout import read_manifest
from st_plugins_export.opened import OpenedExport
from st_plugins_export.providers import Provider
from st_plugins_export.sessions import EXACT_SUMS, EXIT_OUTPUT, OUTPUT, Sessions, _run_bound

FORKS = """
import os, sys, threading
sys.path[:0] = [".", "export"]
import numpy as np
from st_plugins_export.runtime import OnnxEncoder
encoder = OnnxEncoder(sys.argv[1], threads=2)
texts = ["cats sleep", "a", "the weather"] * 20
expected = encoder.encode(texts, batch_size=4)
held, forked = threading.Event(), threading.Event()
def hold():
    with encoder._opened._sessions._lock:
        held.set()
        forked.wait()
threading.Thread(target=hold).start()
held.wait()  # the child inherits a lock that nobody will release
child = os.fork()
if child == 0:
    same = np.allclose(encoder.encode(texts, batch_size=4), expected, atol=1e-6)
    os._exit(0 if same else 3)
forked.set()
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), np.allclose(encoder.encode(texts), expected, atol=1e-6))
"""


@pytest.fixture
def sessions(exported):
    return Sessions(exported, read_manifest(exported))


def test_a_graph_is_opened_when_first_used_and_once(sessions, exported):
    full, small = read_manifest(exported).sizes
    assert sessions._opened == {}
    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(lambda _: id(sessions.session(full)), range(16)))) == 1
    assert list(sessions._opened) == [full.file]
    assert sessions.session(small) is not sessions.session(full)


def test_sums_of_int8_products_are_exact(sessions, exported):
    """What that means is tested in test_row_int8.py."""
    options = sessions.session(read_manifest(exported).full).get_session_options()
    name, value = EXACT_SUMS
    assert options.get_session_config_entry(name) == value


def test_bound_tensors_give_the_same_vectors(exported):
    opened = OpenedExport(exported)
    inputs = opened.inputs(opened.tokenize(["cats sleep", "a"]))
    session = opened.session(opened.manifest.full)
    bound = _run_bound(session, [OUTPUT], inputs, "cpu", 0)
    assert len(bound) == 1
    np.testing.assert_array_equal(bound[0], opened.embed(opened.tokenize(["cats sleep", "a"]), opened.manifest.full))


@pytest.fixture
def bound(monkeypatch):
    """Every run goes the way of CUDA, on the CPU; the list gets the names of its outputs."""
    runs = []

    def run_bound(session, outputs, *rest):
        runs.append(list(outputs))
        return _run_bound(session, outputs, *rest)

    monkeypatch.setattr(Provider, "bound_to", "cpu")
    monkeypatch.setattr(sessions_of_exports, "_run_bound", run_bound)
    return runs


def test_bound_runs_serve_every_graph_of_both_runtimes(exported_exits, leaving, texts, bound):
    many = [f"{text} {i}" for i, text in enumerate(texts * 3)]
    encoder = OnnxEncoder(exported_exits, token_budget=60, threads=3)
    module = OnnxModule.as_sentence_transformer(exported_exits)
    for options in ({}, {"truncate_dim": 8}, {"exit": "gate"}, {"exit": "saturation"}, {"prompt_name": "query"}):
        expected = leaving.encode(many, **options)
        np.testing.assert_allclose(encoder.encode(many, **options), expected, atol=1e-5)
        np.testing.assert_allclose(module.encode(many, **options), expected, atol=1e-5)
    layers = [1, 2, 3] * 6
    vectors, left = encoder.encode_with_exits(many, layers=layers)
    assert left.tolist() == layers
    np.testing.assert_allclose(vectors[1], leaving.encode(many[1], layer=2), atol=1e-5)
    assert {tuple(names) for names in bound} == {(OUTPUT,), (OUTPUT, EXIT_OUTPUT)}


def test_bound_runs_do_not_mix_what_threads_ask_at_once(exported, bound):
    encoder = OnnxEncoder(exported, threads=1)
    jobs = [["cats"], ["the weather is lovely", "a"], ["name of the word", "sleep", "the cats"]] * 20
    expected = [encoder.encode(job) for job in jobs]
    with ThreadPoolExecutor(8) as pool:
        for found, wanted in zip(pool.map(encoder.encode, jobs), expected, strict=True):
            np.testing.assert_allclose(found, wanted, atol=1e-6)
    assert len(bound) >= 2 * len(jobs)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_fork_goes_on_with_sessions_of_its_own(exported):
    run = subprocess.run([sys.executable, "-c", FORKS, str(exported)], capture_output=True, text=True, timeout=60)
    assert run.stdout.split() == ["0", "True"], run.stderr


def test_two_hundred_calls_at_once_equal_one_after_the_other(exported):
    encoder, threads_before = OnnxEncoder(exported, threads=2), threading.active_count()
    generator = np.random.default_rng(0)
    words = ["cats", "sleep", "the", "weather", "naïve", "of"]
    jobs = []
    for number in range(200):
        texts = [
            " ".join(generator.choice(words, size=size)) for size in generator.integers(1, 20, size=number % 7 + 1)
        ]
        options = ({}, {"layer": 2, "truncate_dim": 16}, {"prompt_name": "query"}, {"batch_size": 2})[number % 4]
        jobs.append((texts, options))
    expected = [encoder.encode(texts, **options) for texts, options in jobs]
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda job: encoder.encode(job[0], **job[1]), jobs))
    for vectors, wanted in zip(found, expected, strict=True):
        np.testing.assert_allclose(vectors, wanted, atol=1e-6, rtol=0)
    assert threading.active_count() == threads_before
