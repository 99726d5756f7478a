import json
import math

import pytest

from st_plugins.errors import ExitError
from st_plugins.exit_criteria import Gate, Saturation
from st_plugins.exit_policies import Certificate, ExitPolicy, policy_from_dict

CERTIFICATE = Certificate("cosine", 0.05, 0.1, 60, "betting", 0.03, 0.02, 2.5, (0.5, 0.25, 0.25), "ab", "cd")
POLICY = ExitPolicy("fast", Saturation(), 0.9, (1, 2, 4), "ef", CERTIFICATE)


@pytest.mark.parametrize(
    "policy",
    [
        POLICY,
        ExitPolicy("plain", Saturation(2), 2.0, (1, 2, 3, 4)),
        ExitPolicy("gated", Gate((3,), ((0.1, 0.2, 0.3, 0.4, 0.5),)), -1.0, (3, 4)),
    ],
)
def test_read_back_as_written_through_json(policy):
    assert policy_from_dict(policy.name, json.loads(json.dumps(policy.as_dict()))) == policy


@pytest.mark.parametrize("threshold", [1.01, -1.01, 3.0, math.nan, math.inf, "0.9", None, True])
def test_thresholds_out_of_range_are_refused(threshold):
    with pytest.raises(ExitError, match=r"a number from -1 to 1 \(a cosine\), or 2 .* got"):
        ExitPolicy("fast", Saturation(), threshold, (1, 2, 4))


@pytest.mark.parametrize(
    ("name", "layers", "message"),
    [
        ("", (1, 2, 4), "needs a name, got ''"),
        (" ", (1, 2, 4), "needs a name"),
        (3, (1, 2, 4), "needs a name, got 3"),
        ("fast", (0, 2, 4), r"'fast' must be positive integers, got \(0, 2, 4\)"),
        ("fast", (1.0, 2, 4), "must be positive integers"),
        ("fast", (2, 1, 4), r"must ascend, got \[2, 1, 4\]"),
        ("fast", (1, 1, 4), "must ascend"),
        ("fast", (1, 4), "needs at least 3 exits"),
    ],
)
def test_policies_that_cannot_be_are_refused(name, layers, message):
    with pytest.raises(ExitError, match=message):
        ExitPolicy(name, Saturation(), 0.9, layers)


def test_a_certificate_of_other_exits_is_refused():
    with pytest.raises(ExitError, match=r"one exit rate per layer \[1, 2, 3, 4\], got 3"):
        ExitPolicy("fast", Saturation(), 0.9, (1, 2, 3, 4), None, CERTIFICATE)


def changed(**entries):
    return {**POLICY.as_dict(), **entries}


def certified(**entries):
    return changed(certificate={**POLICY.as_dict()["certificate"], **entries})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "must have .*'criterion'.*got NoneType"),
        ({"threshold": 1}, r"got \['threshold'\]. Calibrate it again"),
        (changed(more=1), "'fast' must have"),
        (changed(layers="124"), "layers or weights of exit policy 'fast' are damaged"),
        (changed(weights=3), "layers or weights of exit policy 'fast' are damaged"),
        (changed(threshold=7), "got 7"),
        (changed(criterion={"type": "magic"}), "got 'magic'"),
        (changed(certificate={}), "certificate of policy 'fast' must have"),
        (changed(certificate=3), "certificate of policy 'fast' must have"),
        (certified(n="60"), "n in the certificate of policy 'fast' is damaged: '60'"),
        (certified(n=60.5), "n in the certificate"),
        (certified(alpha=None), "alpha in the certificate"),
        (certified(risk=3), "risk in the certificate"),
        (certified(p_value=math.nan), "p_value in the certificate"),
        (certified(exit_rates=0.5), "exit_rates in the certificate"),
        (certified(exit_rates=[0.5, "x", 0.5]), "exit_rates in the certificate"),
    ],
)
def test_a_damaged_policy_is_refused(content, message):
    with pytest.raises(ExitError, match=message):
        policy_from_dict("fast", content)


def test_the_decision_is_without_name_proof_and_weights():
    other = ExitPolicy("slow", Saturation(), 0.9, (1, 2, 4))
    assert other.decision() == POLICY.decision()
    assert ExitPolicy("fast", Saturation(), 0.91, (1, 2, 4)).decision() != POLICY.decision()
