"""The parts of the demo that produce its numbers. ``make demo`` runs the whole."""

import sys
from pathlib import Path

import numpy as np
import pytest

import st_plugins

DEMO = Path(__file__).parents[2] / "examples" / "demo"


@pytest.fixture
def demo(monkeypatch):
    """The folder of the demo on the path, as `python examples/demo` puts it there."""
    monkeypatch.syspath_prepend(str(DEMO))
    yield
    for name in ("corpus", "grid"):
        sys.modules.pop(name, None)


@pytest.mark.slow
def test_pairs_are_real_and_split_by_module(demo):
    import corpus

    pairs = corpus.read_pairs(("no_such_package",))
    assert len(pairs) > 1000
    assert len({pair.document for pair in pairs}) == len(pairs)
    path = next(pair for pair in pairs if pair.source.startswith("textwrap:") and pair.question.startswith("wrap:"))
    assert path.question == "wrap: Wrap a single paragraph of text, returning a list of wrapped lines."
    assert path.document.startswith("Reformat the single paragraph in 'text'")
    train, held_out = corpus.split_by_module(pairs, train=500, held_out=100, seed=0)
    assert (len(train), len(held_out)) == (500, 100)
    assert not {pair.module for pair in train} & {pair.module for pair in held_out}
    assert corpus.split_by_module(pairs, train=500, held_out=100, seed=0) == (train, held_out)


def test_ndcg_by_hand(demo):
    import grid

    documents = np.eye(12)
    questions = np.eye(12)
    questions[0] = documents[1]  # its own document comes second
    questions[0, 0] = 0.5
    questions[1] = np.arange(12, 0, -1)  # its own document is the second of twelve
    questions[2] = np.arange(1, 13)  # its own document is the tenth of twelve
    questions[3] = np.arange(3, 15)  # the ninth
    questions[11] = np.arange(12, 0, -1)  # the twelfth: beyond ten it counts nothing
    second, ninth, tenth = (1 / np.log2(rank + 1) for rank in (2, 9, 10))
    expected = 100 * (7 + 2 * second + ninth + tenth + 0) / 12
    assert grid.ndcg_at_10(questions, documents) == pytest.approx(expected)
    assert grid.ndcg_at_10(np.ones((12, 1)), np.ones((12, 1))) == 0  # all tie: nothing was found
    with pytest.raises(ValueError, match="must be finite"):
        grid.ndcg_at_10(np.full((2, 1), np.nan), np.ones((2, 1)))


def test_the_grid_covers_every_layer_and_dim(demo, model, texts, tmp_path):
    import grid

    measured = grid.measure(model, texts, texts, (4, 16), title="test")
    assert sorted(measured) == [(layer, dim) for layer in (1, 2, 3, 4) for dim in (4, 16)]
    assert all(value == pytest.approx(100) for value in measured.values())
    assert grid.table(measured, measured).splitlines()[-1].split() == [
        "4",
        "100.0",
        ">",
        "100.0",
        "100.0",
        ">",
        "100.0",
    ]
    grid.draw(measured, measured, tmp_path / "grid.png")
    assert [file.name for file in tmp_path.iterdir()] == ["grid.png"]


def test_the_demo_shows_sizes_that_its_loss_trains(demo, minilm):
    import ast

    source = ast.parse((DEMO / "__main__.py").read_text())
    values = {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in source.body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") in ("SIZES", "DIMS")
    }
    model = st_plugins.elastic(minilm)
    loss = st_plugins.losses.ElasticLoss(model, _Any())
    assert {dim for _, dim in loss.sizes} == set(values["DIMS"])
    assert set(values["SIZES"]) <= {*loss.sizes, loss.full_size}


class _Any:
    def compute_loss_from_embeddings(self, embeddings, labels):
        raise NotImplementedError
