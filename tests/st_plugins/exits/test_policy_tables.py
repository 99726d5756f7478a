import numpy as np
import pytest
import torch

import exit_cases
import st_plugins
from st_plugins.errors import InputError, UnsupportedModelError
from st_plugins.exit_criteria import Saturation
from st_plugins.exit_policies import ExitPolicy
from st_plugins.exits import calibrate_exits, policy_table, write_policy_table


def test_one_row_per_policy(model):
    exit_cases.train(model)
    assert policy_table(model) == ""
    proof = calibrate_exits(model, exit_cases.texts(100), name="balanced", alpha=0.4).certificate
    model[0].add_exit_policy(ExitPolicy("by | hand", Saturation(), 0.9, (1, 2, 4)))
    header, rule, balanced, by_hand = policy_table(model).splitlines()
    assert header.count("|") == rule.count("|") == balanced.count("|") == by_hand.replace("\\|", "").count("|") == 8
    assert f"| `balanced` | cosine | at most 0.4, P >= 0.9 | 100 | {proof.mean_loss:.4f} |" in balanced
    assert f"{proof.expected_layers:.2f} of 4 |" in balanced
    assert balanced.endswith(f"4: {100 * proof.exit_rates[3]:.0f} % |")
    assert by_hand == "| `by \\| hand` | | none | | | | 1, 2, 4 |"
    with torch.no_grad():
        model[0].model.encoder.layer[0].output.dense.weight.mul_(1.1)
    assert "void: the model has changed since" in policy_table(model)


def test_plain_models_have_none(plain):
    with pytest.raises(UnsupportedModelError, match="model for a table of policies must be elastic"):
        policy_table(plain)


@pytest.fixture
def saved(model, tmp_path):
    """An elastic model with one policy, and the folder it was saved to."""
    exit_cases.train(model)[0].add_exit_policy(ExitPolicy("mine", Saturation(), 0.9, (1, 2, 4)))
    model.save_pretrained(str(tmp_path))
    return model, tmp_path


def test_the_card_of_the_host_stays_and_the_table_goes_to_its_end(saved):
    model, folder = saved
    card = folder / "README.md"
    host = card.read_text()
    write_policy_table(model, folder)
    written = card.read_text()
    assert written.startswith(host.rstrip() + "\n\n<!-- start of dynamic exits -->\n## Dynamic Exits\n")
    assert written.endswith(policy_table(model) + "\n<!-- end of dynamic exits -->\n")
    assert "| `mine` |" not in host
    assert not list(folder.glob(".*"))
    assert np.array_equal(st_plugins.load(folder, device="cpu").encode("red cat"), model.encode("red cat"))


def test_a_later_table_replaces_the_earlier_one_where_it_stands(saved):
    model, folder = saved
    card = folder / "README.md"
    write_policy_table(model, folder)
    once = card.read_text()
    write_policy_table(model, str(folder))
    assert card.read_text() == once
    card.write_text(once + "## By hand\n\n\\1 stays\n", encoding="utf-8")
    model[0].add_exit_policy(ExitPolicy("\\g<0> twö", Saturation(), 0.8, (1, 2, 4)))
    write_policy_table(model, folder)
    twice = card.read_text(encoding="utf-8")
    assert twice.count("## Dynamic Exits") == 1
    assert twice.index("| `mine` |") < twice.index("| `\\g<0> twö` |") < twice.index("## By hand\n\n\\1 stays\n")
    assert twice.replace("| `\\g<0> twö` | | none | | | | 1, 2, 4 |\n", "") == once + "## By hand\n\n\\1 stays\n"


def test_without_policies_the_table_goes_away(saved):
    model, folder = saved
    card = folder / "README.md"
    write_policy_table(model, folder)
    model[0].exit_policies = {}
    write_policy_table(model, folder)
    without = card.read_text()
    assert "exits -->" not in without
    write_policy_table(model, folder)
    assert card.read_text() == without


def test_the_table_reaches_the_card_of_the_host_after_every_save(saved):
    model, folder = saved
    write_policy_table(model, folder)
    again = st_plugins.load(folder, device="cpu")
    again.save_pretrained(str(folder))
    write_policy_table(again, folder)
    assert (folder / "README.md").read_text().count("| `mine` |") == 1


def test_only_cards_of_elastic_models_are_written(saved, plain):
    model, folder = saved
    with pytest.raises(InputError, match=r"must hold README.md, .* does not. Save the model there first"):
        write_policy_table(model, folder / "nothing")
    before = (folder / "README.md").read_text()
    with pytest.raises(UnsupportedModelError, match="must be elastic"):
        write_policy_table(plain, folder)
    assert (folder / "README.md").read_text() == before
