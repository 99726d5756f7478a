import json

import pytest

from st_plugins.bulk import JobSettings

TEXTS = ["the cat sat", "a dog ran on the mat", "it", "red and blue", "slow is fast", "the red dog"]


@pytest.fixture
def folder(model, tmp_path):
    """A saved model."""
    model.save_pretrained(str(tmp_path / "model"))
    return str(tmp_path / "model")


@pytest.fixture
def settings(folder):
    return JobSettings(folder, device="cpu")


@pytest.fixture
def source(tmp_path):
    """Two files of lines, three rows each."""
    texts = tmp_path / "texts"
    texts.mkdir()
    for name, some in (("a", TEXTS[:3]), ("b", TEXTS[3:])):
        lines = [json.dumps({"key": f"{name}{place}", "text": text}) for place, text in enumerate(some)]
        (texts / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    return texts
