"""Draws where texts leave, and what that costs. Certificates and curves are made elsewhere."""

from pathlib import Path

from st_plugins.errors import ExitError
from st_plugins.exit_policies import ExitPolicy
from st_plugins.exits.curves import ExitCurves
from st_plugins.figures import new_figure, save_figure


def draw_exit_rates(policy: ExitPolicy, file: str | Path, *, title: str = "") -> None:
    """A bar per exit: the share of the calibration's texts that left there.

    Args:
        policy: With a certificate.
        file: A PNG; an earlier one is replaced when the new one is complete.
        title: Above the picture.

    Raises:
        ExitError: If the policy has no certificate.
        MissingExtraError: If matplotlib is not installed.

    Example:
        >>> from st_plugins.exits import Certificate, Saturation
        >>> proof = Certificate("cosine", 0.1, 0.1, 100, "betting", 0.1, 0.01, 3.0, (0.0, 0.5, 0.5), "", "")
        >>> draw_exit_rates(ExitPolicy("mine", Saturation(), 0.9, (1, 2, 4), None, proof), "exits.png")
    """
    if policy.certificate is None:
        raise ExitError(f"Exit rates are drawn from a certificate, policy {policy.name!r} has none. Calibrate it.")
    figure, axis = new_figure(2.0 + 0.7 * len(policy.layers), 3.4)
    rates = [100 * rate for rate in policy.certificate.exit_rates]
    bars = axis.bar([str(layer) for layer in policy.layers], rates)
    axis.bar_label(bars, fmt="%.0f")
    axis.margins(y=0.12)
    axis.set(title=title, xlabel="layer of exit", ylabel=f"texts (% of {policy.certificate.n})")
    save_figure(figure, file)


def draw_curves(curves: ExitCurves, file: str | Path, *, policy: ExitPolicy | None = None, title: str = "") -> None:
    """Mean loss against mean layer: the criterion at every threshold, static layers, an oracle.

    Args:
        curves: From :func:`st_plugins.exits.curves.exit_curves`.
        file: A PNG; an earlier one is replaced when the new one is complete.
        policy: A policy whose certificate is drawn as a point, with alpha as a line.
        title: Above the picture.

    Raises:
        ExitError: If the policy has no certificate, or one for another risk.
        MissingExtraError: If matplotlib is not installed.

    Example:
        >>> draw_curves(ExitCurves("cosine", ((2.0, 0.1),), ((1.0, 0.2), (2.0, 0.0)), ((1.0, 0.2),)), "curves.png")
    """
    proof = None if policy is None else policy.certificate
    if policy is not None and (proof is None or proof.risk != curves.risk):
        came = "none" if proof is None else f"one for {proof.risk!r}"
        raise ExitError(f"The policy drawn must have a certificate for {curves.risk!r}, {policy.name!r} has {came}.")
    figure, axis = new_figure(7.0, 4.4)
    for points, label, style in (
        (curves.static, "static layers", {"marker": "o", "linestyle": ":"}),
        (curves.dynamic, "dynamic exits", {}),
        (curves.oracle, "oracle", {"linestyle": "--"}),
    ):
        axis.plot([layer for layer, _ in points], [loss for _, loss in points], label=label, **style)
    if policy is not None and proof is not None:
        axis.axhline(proof.alpha, color="gray", linewidth=0.8, label="alpha")
        axis.plot([proof.expected_layers], [proof.mean_loss], "k*", markersize=12, label=f"policy {policy.name!r}")
    axis.set(title=title, xlabel="mean layer of exit", ylabel=f"mean loss ({curves.risk})")
    axis.grid(alpha=0.3)
    axis.legend()
    save_figure(figure, file)
