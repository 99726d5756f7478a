import numpy as np
import pytest
from scipy.stats import chi2_contingency

from st_plugins.errors import ExitError
from st_plugins.exit_criteria import Saturation
from st_plugins.exit_policies import Certificate, ExitPolicy
from st_plugins.exits import check_drift


def policy(rates, n=200, layers=(1, 2, 4)):
    certificate = Certificate("cosine", 0.1, 0.1, n, "betting", 0.01, 0.02, 3.0, tuple(rates), "", "")
    return ExitPolicy("mine", Saturation(), 0.9, layers, None, certificate)


def test_it_is_the_chi_square_test_of_the_counts():
    drift = check_drift(policy([0.2, 0.5, 0.3]), [1] * 10 + [2] * 20 + [4] * 50)
    test = chi2_contingency([[40, 100, 60], [10, 20, 50]], correction=False)
    assert drift.p_value == pytest.approx(test.pvalue, rel=1e-9)
    assert drift.exit_rates == (0.125, 0.25, 0.625)
    assert drift.total_variation == pytest.approx((0.075 + 0.25 + 0.325) / 2)
    assert drift.n == 80


def test_exits_nobody_used_do_not_count():
    drift = check_drift(policy([0.0, 0.5, 0.5]), [2] * 90 + [4] * 10)
    assert drift.p_value == pytest.approx(chi2_contingency([[100, 100], [90, 10]], correction=False).pvalue, rel=1e-9)
    assert check_drift(policy([0.0, 1.0, 0.0]), [2] * 7).p_value == 1.0
    assert check_drift(policy([0.0, 1.0, 0.0]), [4] * 50).p_value < 1e-9
    assert check_drift(policy([0.0, 1.0, 0.0]), [4] * 50).total_variation == 1.0


def test_the_same_texts_are_seldom_called_others():
    rng = np.random.default_rng(0)
    rates = np.array([0.2, 0.5, 0.3])
    p_values = []
    for _ in range(500):
        calibration = rng.multinomial(200, rates) / 200
        live = np.repeat([1, 2, 4], rng.multinomial(100, rates))
        p_values.append(check_drift(policy(calibration), live).p_value)
    assert np.mean(np.array(p_values) <= 0.1) == pytest.approx(0.1, abs=0.04)


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(ExitError, match="policy 'bare' has none. Calibrate it"):
        check_drift(ExitPolicy("bare", Saturation(), 0.9, (1, 2, 4)), [1])
    with pytest.raises(ExitError, match="exit layers of some live texts, got none"):
        check_drift(policy([0.2, 0.5, 0.3]), [])
    with pytest.raises(ExitError, match=r"leave at \[1, 2, 4\], got \[3\] as well"):
        check_drift(policy([0.2, 0.5, 0.3]), [1, 3, 4])
