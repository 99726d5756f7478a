"""Memory of a process that encodes texts of random lengths without end."""

import random
from pathlib import Path

import pytest

import st_plugins
from st_plugins_export import OnnxEncoder

WORDS = "the a cat dog sat ran on under mat tree red blue is was and of in to it fast slow".split()
TEXTS, CALLS, WARM_CALLS = 500, 40, 8
MOST_GROWTH = 50 * 2**20


def resident():
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def random_texts(rng, count):
    return [" ".join(rng.choices(WORDS, k=rng.randint(1, 60))) for _ in range(count)]


def growth(encode, *, texts=TEXTS, calls=CALLS, warm=WARM_CALLS, seed=0):
    """Bytes that a process grows by in ``calls`` calls after the first ``warm`` ones."""
    rng = random.Random(seed)
    for _ in range(warm):
        encode(random_texts(rng, texts))
    before = resident()
    for _ in range(calls):
        encode(random_texts(rng, texts))
    return resident() - before


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")
@pytest.mark.parametrize("options", [{}, {"layer": 2}, {"exit": 0.9, "allow_untrained": True}], ids=str)
def test_torch_does_not_grow(saved, options):
    model = st_plugins.load(saved, device="cpu")
    assert growth(lambda texts: model.encode(texts, **options)) < MOST_GROWTH


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")
def test_onnx_does_not_grow(exported):
    assert growth(OnnxEncoder(exported).encode) < MOST_GROWTH


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")
def test_the_measurement_can_fail():
    kept = []
    assert growth(lambda texts: kept.append(bytearray(2 * 2**20)), texts=1, calls=40, warm=1) > MOST_GROWTH
