import pytest
import torch

import exit_cases
from st_plugins.errors import UnsupportedModelError
from st_plugins.exit_criteria import Saturation
from st_plugins.exit_policies import ExitPolicy
from st_plugins.exits import calibrate_exits, policy_table


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
    with pytest.raises(UnsupportedModelError, match="Exits need an elastic model"):
        policy_table(plain)
