import json

import pytest
from sentence_transformers import SentenceTransformer

import st_plugins
from st_plugins.errors import InputError
from st_plugins.evaluation import write_model_card
from st_plugins.evaluation.grid import GridPoint
from st_plugins.exits import ExitPolicy, Saturation


@pytest.fixture
def saved(plain, tmp_path):
    model = st_plugins.elastic(plain, sizes=[(2, 8), (3, 16), (4, 16)])
    model[0].add_exit_policy(ExitPolicy("mine", Saturation(), 0.98, (2, 3, 4)))
    model.save_pretrained(str(tmp_path / "tiny"))
    return model, tmp_path / "tiny"


def test_how_to_use_it_sizes_and_policies(saved):
    model, folder = saved
    write_model_card(
        model, folder, points=[GridPoint(2, 2, 8, 0.5, 0.4), GridPoint(2, 4, 8, 0.9, 0.4)], metric="nDCG@10"
    )
    card = (folder / "README.md").read_text()
    for line in (f'pip install "st-plugins>={st_plugins.__version__}"', 'model = st_plugins.load("tiny")',
                 'vectors = model.encode(["A text"], layer=2, truncate_dim=8)',
                 "classes of another package, st-plugins: `ElasticTransformer`, `Truncation`.",
                 "| layer | dim | nDCG@10 (%) | time of the deepest |", "| 2 | 8 | 50.0 | 0.40 |", "| 4 | 16 | | |",
                 "| `mine` | | none |"):  # fmt: skip
        assert line in card
    write_model_card(model, folder)
    again = (folder / "README.md").read_text()
    assert again.count("## Usage with st-plugins") == 1
    assert "| 2 | 8 |\n| 3 | 16 |\n| 4 | 16 |\n" in again


def test_the_stamp_says_what_is_needed_and_harms_no_loader(saved):
    model, folder = saved
    write_model_card(model, folder)
    settings = json.loads((folder / "config_sentence_transformers.json").read_text())
    assert settings["requirements"] == [f"st-plugins>={st_plugins.__version__}"]
    assert settings["prompts"] == model.prompts
    ours = st_plugins.load(folder, device="cpu")
    host = SentenceTransformer(str(folder), trust_remote_code=True, device="cpu")
    assert st_plugins.fingerprint(ours) == st_plugins.fingerprint(host) == st_plugins.fingerprint(model)


def test_the_example_cuts_only_where_there_is_something_to_cut(plain, tmp_path):
    model = st_plugins.elastic(plain, sizes=[(2, 16)])
    model.save_pretrained(str(tmp_path))
    write_model_card(model, tmp_path)
    assert 'vectors = model.encode(["A text"], layer=2)\n' in (tmp_path / "README.md").read_text()


def test_a_plain_model_needs_nothing(plain, tmp_path):
    plain.save_pretrained(str(tmp_path))
    before = (tmp_path / "README.md").read_text()
    write_model_card(plain, tmp_path)
    assert (tmp_path / "README.md").read_text() == before


def test_the_model_must_be_saved_first(saved, tmp_path):
    with pytest.raises(InputError, match="must hold README.md"):
        write_model_card(saved[0], tmp_path)


def test_a_folder_is_called_by_its_name_from_inside_too(saved, monkeypatch):
    model, folder = saved
    monkeypatch.chdir(folder)
    write_model_card(model, ".")
    assert 'st_plugins.load("tiny")' in (folder / "README.md").read_text()
