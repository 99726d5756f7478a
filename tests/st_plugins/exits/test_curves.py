import itertools

import numpy as np
import pytest
import torch

import exit_cases
from st_plugins.errors import ExitError
from st_plugins.exit_criteria import Gate
from st_plugins.exits import calibrate_exits
from st_plugins.exits.curves import exit_curves, oracle_points
from st_plugins.exits.risks import cosine_loss


@pytest.fixture
def trained(model):
    return exit_cases.train(model)


@pytest.mark.parametrize("seed", range(5))
def test_the_oracle_is_the_best_of_all_choices(seed):
    rng = np.random.default_rng(seed)
    losses, layers = rng.random((3, 4)).round(2), np.array([1.0, 2.0, 5.0])
    points = oracle_points(torch.from_numpy(losses), torch.from_numpy(layers))
    choices = [
        (layers[list(choice)].mean(), losses[list(choice), range(4)].mean())
        for choice in itertools.product(range(3), repeat=4)
    ]
    for layer, loss in points:  # each point is a choice ...
        assert min(abs(layer - x) + abs(loss - y) for x, y in choices) < 1e-9
    xs, ys = zip(*points, strict=True)
    for x, y in choices:  # ... and none lies below the line through them
        assert y >= np.interp(x, xs, ys) - 1e-9
    assert points[0] == (1.0, pytest.approx(losses[0].mean()))
    assert ys[-1] == pytest.approx(losses.min(axis=0).mean())


def test_static_layers_and_thresholds_are_what_encode_gives(trained):
    texts = exit_cases.texts(60)
    curves = exit_curves(trained, [*texts, *texts[:10]])
    full = trained.encode(texts, convert_to_tensor=True)
    for index, layer in enumerate((1, 2, 3, 4)):
        loss = cosine_loss(trained.encode(texts, layer=layer, convert_to_tensor=True), full).mean()
        assert curves.static[index] == (layer, pytest.approx(float(loss), abs=1e-6))
    assert curves.dynamic[-1] == (4.0, pytest.approx(0, abs=1e-6))
    assert curves.dynamic[0] == pytest.approx(curves.static[1], abs=1e-6)  # always leaving: the second exit
    assert list(curves.dynamic) == sorted(curves.dynamic)
    proof = calibrate_exits(trained, texts, name="x", alpha=0.45).certificate
    assert (proof.expected_layers, pytest.approx(proof.mean_loss)) in [(x, y) for x, y in curves.dynamic]
    xs, ys = zip(*curves.oracle, strict=True)
    for x, y in (*curves.dynamic, *curves.static):
        assert y >= np.interp(x, xs, ys) - 1e-9


def test_other_criteria_and_risks(trained):
    def half(exits, full):
        return torch.full((len(exits),), 0.5)

    gate = Gate((1, 2, 3), ((0.0, 0.0, 0.0, -0.5, 1.0),) * 3)
    curves = exit_curves(trained, exit_cases.texts(20), criterion=gate, risk=half)
    assert curves.risk == "half"
    assert {loss for _, loss in curves.dynamic} == {0.5}
    assert curves.dynamic[0][0] == 1.0
    with pytest.raises(ExitError, match="gate was trained for exits"):
        exit_curves(trained, ["a"], criterion=Gate((1,), ((0, 0, 0, 0, 0),)))
