"""A folder with an elastic model of layers 2, 3 and 4, and files of texts."""

import json

import pytest

import st_plugins

QUERIES = [f"the {color} {animal} {verb}" for color in ("red", "blue", "slow") for animal in ("cat", "dog", "tree")
           for verb in ("sat", "ran", "is fast", "was under it")]  # fmt: skip


@pytest.fixture
def folder(plain, tmp_path):
    model = st_plugins.elastic(plain, sizes=[(2, 8), (2, 16), (3, 16), (4, 16)])
    model.save_pretrained(str(tmp_path / "model"))
    (tmp_path / "texts.txt").write_text("the cat\n\na dog\n")
    (tmp_path / "queries.txt").write_text("\n".join(QUERIES))
    rows = [{"anchor": text, "positive": text + " in the mat"} for text in QUERIES[:8]]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path
