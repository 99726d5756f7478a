"""Whether live texts leave as the calibration texts did. If not, the promise may not be about them.

The reverse does not hold: texts of another kind may happen to leave at the same layers.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy.special import chdtrc

from st_plugins.errors import ExitError
from st_plugins.exit_policies import ExitPolicy


@dataclass(frozen=True)
class Drift:
    """How live exits differ from those of the calibration.

    Args:
        n: Live texts.
        exit_rates: Share of them that left at each layer of the policy.
        total_variation: Half the sum of the absolute differences of the rates, in [0, 1].
        p_value: Of "both were drawn from the same texts"; small means drift.

    Example:
        >>> Drift(10, (0.5, 0.5), 0.0, 1.0).total_variation
        0.0
    """

    n: int
    exit_rates: tuple[float, ...]
    total_variation: float
    p_value: float


def check_drift(policy: ExitPolicy, exit_layers: Iterable[int]) -> Drift:
    """Compare live exits with the exit rates of a policy's certificate.

    The p-value is that of Pearson's chi-square test on two rows of counts. With a_k and b_k the counts at exit k, n and
    m their sums::

        X = sum_k (sqrt(m / n) a_k - sqrt(n / m) b_k)^2 / (a_k + b_k)          p = P(chi-square(K - 1) >= X)

    over the K exits that were used at all; 1 if there is but one. It is an approximation for large counts: with fewer
    than about five texts per exit read the rates instead.

    Args:
        policy: With a certificate.
        exit_layers: One per live text, from :func:`~st_plugins.exits.encode_with_exits` without ``layer``.

    Returns:
        Drift: Rates, distance and p-value.

    Raises:
        ExitError: If the policy has no certificate, there are no live texts, or a layer is none of its exits.

    Example:
        >>> from st_plugins.exits import Certificate, Saturation
        >>> policy = ExitPolicy("mine", Saturation(), 0.9, (1, 2, 4), None, Certificate(
        ...     "cosine", 0.1, 0.1, 100, "betting", 0.1, 0.01, 3.0, (0.0, 0.5, 0.5), "", ""))
        >>> check_drift(policy, [2] * 90 + [4] * 10).total_variation
        0.4
    """
    if policy.certificate is None:
        raise ExitError(f"Drift is measured against a certificate, policy {policy.name!r} has none. Calibrate it.")
    layers = list(exit_layers)
    if not layers:
        raise ExitError("Drift needs the exit layers of some live texts, got none.")
    unknown = sorted({int(layer) for layer in layers} - set(policy.layers))
    if unknown:
        raise ExitError(f"Texts of policy {policy.name!r} leave at {list(policy.layers)}, got {unknown} as well.")
    live = np.array([sum(layer == one for layer in layers) for one in policy.layers], dtype=float)
    rates = np.array(policy.certificate.exit_rates)
    return Drift(
        n=len(layers),
        exit_rates=tuple((live / len(layers)).tolist()),
        total_variation=float(np.abs(live / len(layers) - rates).sum() / 2),
        p_value=_chi_square(rates * policy.certificate.n, live),
    )


def _chi_square(a: np.ndarray, b: np.ndarray) -> float:
    used = a + b > 0
    a, b = a[used], b[used]
    if len(a) == 1:
        return 1.0
    ratio = np.sqrt(b.sum() / a.sum())
    return float(chdtrc(len(a) - 1, ((ratio * a - b / ratio) ** 2 / (a + b)).sum()))
