"""The mathematics of the guarantee: p-values for "the risk is above alpha", and how far a sequence of tests may go.

It knows numbers between 0 and 1 and nothing of models; what they mean is said in :mod:`st_plugins.exits.calibration`.
"""

import math
from collections.abc import Callable, Iterable

import numpy as np
from scipy.special import bdtr

from st_plugins.errors import ExitError

PValue = Callable[[np.ndarray, float], float]

# Beyond this many texts nobody waits for a guarantee.
_MOST_TEXTS = 10_000_000


def hoeffding(losses: np.ndarray, alpha: float) -> float:
    """P-value of "the mean loss is above alpha" by Hoeffding's inequality.

    With R the mean of n losses::

        p = exp(-2 n max(alpha - R, 0)^2)

    Args:
        losses: (n,) independent losses in [0, 1].
        alpha: In (0, 1).

    Returns:
        float: In (0, 1]. If the true mean is above alpha, P(p <= delta) <= delta for every delta.

    References:
        Hoeffding, *Probability Inequalities for Sums of Bounded Random Variables*, 1963.

    Example:
        >>> round(hoeffding(np.zeros(100), 0.1), 4)
        0.1353
    """
    return math.exp(-2 * len(losses) * max(alpha - float(np.mean(losses)), 0.0) ** 2)


def hoeffding_bentkus(losses: np.ndarray, alpha: float) -> float:
    """P-value of "the mean loss is above alpha" by the better of Hoeffding's and Bentkus' inequalities.

    With R the mean of n losses and h(a, b) the divergence of Bernoulli(a) from Bernoulli(b)::

        p = min( exp(-n h(min(R, alpha), alpha)),  e P(Binomial(n, alpha) <= ceil(n R)) )

    Args:
        losses: (n,) independent losses in [0, 1].
        alpha: In (0, 1).

    Returns:
        float: In (0, 1], as :func:`hoeffding` and never above it.

    References:
        Bates et al., *Distribution-Free, Risk-Controlling Prediction Sets*, https://arxiv.org/abs/2101.02703, section
        3.1; in Learn then Test, https://arxiv.org/abs/2110.01052.

    Example:
        >>> f"{hoeffding_bentkus(np.zeros(100), 0.1):.3e}"
        '2.656e-05'
    """
    total = math.fsum(losses)
    by_hoeffding = math.exp(-len(losses) * _divergence(min(total / len(losses), alpha), alpha))
    by_bentkus = math.e * float(bdtr(math.ceil(total), len(losses), alpha))
    return min(by_hoeffding, by_bentkus, 1.0)


def betting(losses: np.ndarray, alpha: float) -> float:
    """P-value of "the mean loss is above alpha" by betting on each loss in turn that it is not.

    With m_i and v_i the mean and the variance of the first i losses, one imagined loss of 1/2 among them::

        bet_i = min(1, sqrt(2 log(10) / (n v_(i-1))))
        wealth_t = prod_(i <= t) (1 - bet_i (loss_i - alpha))          p = 1 / max_t wealth_t, at most 1

    If the true mean is above alpha nobody can expect to win: P(wealth ever reaches 1 / delta) <= delta. It adapts to
    the variance, so it certifies more than :func:`hoeffding_bentkus` where losses vary little and n is large. The order
    of the losses counts: it must have nothing to do with their values.

    Args:
        losses: (n,) independent losses in [0, 1].
        alpha: In (0, 1).

    Returns:
        float: In (0, 1].

    References:
        Waudby-Smith & Ramdas, *Estimating Means of Bounded Random Variables by Betting*,
        https://arxiv.org/abs/2010.09686, with the bets of 2101.02703, section 3.1.3. The bets are tuned for delta =
        0.1; every delta is valid.

    Example:
        >>> betting(np.array([0.0]), 0.1) == 1 / 1.1
        True
    """
    values = np.asarray(losses, dtype=np.float64)
    count = np.arange(1, len(values) + 1)
    means = (0.5 + np.cumsum(values)) / (count + 1)
    variances = (0.25 + np.cumsum((values - means) ** 2)) / (count + 1)
    before = np.concatenate([[0.25], variances[:-1]])
    bets = np.minimum(1.0, np.sqrt(2 * math.log(10) / (len(values) * before)))
    wealth = np.cumsum(np.log1p(-bets * (values - alpha)))
    return min(1.0, math.exp(-float(wealth.max())))


BOUNDS: dict[str, PValue] = {
    "hoeffding-bentkus": hoeffding_bentkus,
    "hoeffding": hoeffding,
    "betting": betting,
}


def fixed_sequence(p_values: Iterable[float], delta: float) -> int | None:
    """Test hypotheses in an order fixed beforehand, and stop at the first that cannot be rejected.

    Each is tested at the full level: the order costs nothing, however many there are.

    Args:
        p_values: From the most cautious choice to the boldest; not asked for more than is needed.
        delta: In (0, 1).

    Returns:
        int | None: The index of the last one before the first above delta. None if that is the first of all.

    References:
        Fixed sequence testing in Learn then Test, https://arxiv.org/abs/2110.01052, section 4.

    Example:
        >>> fixed_sequence([0.01, 0.02, 0.3, 0.01], 0.1)
        1
    """
    last = None
    for index, p_value in enumerate(p_values):
        if not p_value <= delta:
            break
        last = index
    return last


def fewest_texts(alpha: float, delta: float, p_value: PValue) -> int:
    """How many losses of exactly 0 it takes for a p-value of at most delta: with fewer, nothing can be certified.

    Args:
        alpha: In (0, 1).
        delta: In (0, 1).
        p_value: One of the functions above.

    Returns:
        int: At least 1.

    Raises:
        ExitError: If it is beyond ten millions.

    Example:
        >>> fewest_texts(0.1, 0.1, hoeffding_bentkus), fewest_texts(0.01, 0.05, hoeffding_bentkus)
        (22, 299)
    """
    enough = 1
    while p_value(np.zeros(enough), alpha) > delta:
        enough *= 2
        if enough > _MOST_TEXTS:
            raise ExitError(
                f"alpha must leave room for a proof, got {alpha!r}, which takes more than {_MOST_TEXTS} texts. "
                "Choose a larger alpha."
            )
    too_few = enough // 2  # 0 if one is enough
    while enough - too_few > 1:
        middle = (enough + too_few) // 2
        if p_value(np.zeros(middle), alpha) > delta:
            too_few = middle
        else:
            enough = middle
    return enough


def _divergence(a: float, b: float) -> float:
    """KL divergence of Bernoulli(a) from Bernoulli(b)."""
    terms = [p * math.log(p / q) for p, q in ((a, b), (1 - a, 1 - b)) if p > 0]
    return math.fsum(terms)
