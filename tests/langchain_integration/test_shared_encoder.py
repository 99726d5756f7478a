import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from langchain_st_plugins import ElasticEmbeddings
from langchain_st_plugins.multi_vector_index import MultiVectorIndex
from langchain_st_plugins.shared_encoder import SharedEncoder, Turns
from st_plugins.errors import ExitError


class _Encoder:
    """Notes how many callers are inside at once, and what they asked."""

    def __init__(self):
        self.inside = self.most = self.asked = 0
        self.calls = []
        self.counting = threading.Lock()

    def encode_query(self, texts, **options):
        with self.counting:
            self.inside += 1
            self.most = max(self.most, self.inside)
        self.calls.append(("query", texts, options))
        with self.counting:
            self.inside -= 1
        return np.ones((len(texts), 2))

    def encode_document(self, texts, **options):
        self.calls.append(("document", texts, options))
        return np.ones((len(texts), 2))

    def fingerprint(self):
        self.asked += 1
        return "same"


def test_it_loads_once_and_serves_one_caller_at_a_time():
    encoder, loads = _Encoder(), []
    shared = SharedEncoder(lambda: loads.append(1) or encoder)
    assert loads == []
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: shared.encode("query", ["a"]), range(100)))
    assert (len(loads), encoder.most, len(encoder.calls)) == (1, 1, 100)


def test_all_who_share_an_encoder_take_turns_and_know_their_own_fingerprint(encoder):
    one, other = ElasticEmbeddings(encoder=encoder), ElasticEmbeddings(encoder=encoder, dim=8)
    tokens = MultiVectorIndex(encoder)
    assert one.executor is other.executor is tokens.executor
    with ThreadPoolExecutor(8) as pool:  # the encoder fails if a second caller comes in
        rows = list(pool.map(lambda number: (one, other)[number % 2].embed_query("a text " * 50), range(100)))
    assert {len(row) for row in rows} == {8, 32}
    assert one.fingerprint == "toy/1"
    encoder.fingerprint = "toy/2"
    assert ElasticEmbeddings(encoder=encoder).fingerprint == "toy/2"
    assert ElasticEmbeddings(encoder=_Encoder()).executor is not one.executor


def test_turns_go_with_the_last_who_holds_them():
    encoder = _Encoder()
    turns, again = Turns.of(encoder), Turns.of(encoder)
    assert turns is again
    del turns, again
    assert id(encoder) not in Turns._known


def test_kinds_and_options_reach_the_encoder():
    encoder = _Encoder()
    shared = SharedEncoder(lambda: encoder)
    shared.encode("query", ["a"], layer=2)
    shared.encode("document", ["b"])
    assert encoder.calls == [("query", ["a"], {"layer": 2}), ("document", ["b"], {})]


def test_the_identity_of_an_exit_is_computed_once(encoder):
    shared = SharedEncoder(lambda: encoder)
    assert shared.exit_fingerprint("fast", allow_untrained=False) == "toy/1 fast"
    encoder.exit_fingerprints = {}
    assert shared.exit_fingerprint("fast", allow_untrained=False) == "toy/1 fast"
    with pytest.raises(ExitError, match=r"policies of this encoder, \[\], got 'fast'"):
        shared.exit_fingerprint("fast", allow_untrained=True)


def test_layers_come_with_exits_only(encoder):
    shared = SharedEncoder(lambda: encoder)
    assert shared.encode("query", ["a"], show_progress_bar=False)[1] is None
    assert shared.encode("query", ["a"], exit="fast", show_progress_bar=False)[1].shape == (1,)


def test_the_fingerprint_is_asked_for_once():
    encoder = _Encoder()
    shared = SharedEncoder(lambda: encoder)
    assert [shared.fingerprint, shared.fingerprint, encoder.asked] == ["same", "same", 1]


def test_an_encoder_without_identity_is_refused():
    with pytest.raises(TypeError, match="must be a SentenceTransformer or have a fingerprint, and object has none"):
        _ = SharedEncoder(object).fingerprint


def test_async_work_has_one_thread_of_its_own():
    shared = SharedEncoder(_Encoder)
    names = {shared.executor.submit(lambda: threading.current_thread().name).result() for _ in range(5)}
    assert len(names) == 1
    assert next(iter(names)).startswith("elastic-embeddings")
