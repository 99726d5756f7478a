"""Exit policies: which texts leave at which layer, with what was proved about them. They are data and run nothing."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from st_plugins.counts import is_count
from st_plugins.errors import ExitError
from st_plugins.exit_criteria import Criterion, criterion_from_dict

# Above every score: no text leaves before the last exit.
NEVER = 2.0


@dataclass(frozen=True)
class Certificate:
    """What a calibration proved, and on what.

    With probability at least 1 - delta over the draw of the n texts, the mean loss of further texts drawn in the same
    way is at most alpha. It says nothing about texts of another kind, nor about a single text.

    Args:
        risk: Name of the loss, which lies in [0, 1].
        alpha: In (0, 1).
        delta: In (0, 1).
        n: Distinct texts.
        bound: Name of the test.
        p_value: Of "the risk is above alpha", at most delta.
        mean_loss: Over the n texts.
        expected_layers: Mean layer of exit over the n texts.
        exit_rates: Share of the n texts that leave at each layer of the policy.
        data: SHA-256 of the sorted texts.
        fingerprint: Of the model at the first exit, all of its weights and maps, see :func:`st_plugins.fingerprint`.

    Example:
        >>> Certificate("cosine", 0.05, 0.1, 2, "betting", 0.01, 0.02, 4.0, (0.5, 0.5), "", "").expected_layers
        4.0
    """

    risk: str
    alpha: float
    delta: float
    n: int
    bound: str
    p_value: float
    mean_loss: float
    expected_layers: float
    exit_rates: tuple[float, ...]
    data: str
    fingerprint: str


@dataclass(frozen=True)
class ExitPolicy:
    """A text leaves at the first of these layers where its score reaches the threshold, at the last one otherwise.

    Args:
        name: What ``model.encode(texts, exit=name)`` calls it.
        criterion: :class:`~st_plugins.exits.Saturation` or :class:`~st_plugins.exits.Gate`.
        threshold: In [-1, 1], or 2: no text leaves before the last layer.
        layers: The exits, ascending.
        weights: Digest of the weights it is good for, or None for any.
        certificate: What was proved about it, or None.

    Raises:
        ExitError: If a value is out of range, or the criterion cannot serve these layers.

    Example:
        >>> from st_plugins.exits import Saturation
        >>> ExitPolicy("mine", Saturation(), 0.98, (2, 4, 6)).layers
        (2, 4, 6)
    """

    name: str
    criterion: Criterion
    threshold: float
    layers: tuple[int, ...]
    weights: str | None = None
    certificate: Certificate | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name.strip():
            raise ExitError(f"A policy needs a name, got {self.name!r}.")
        check_threshold(self.threshold)
        layers = self.layers
        if not all(is_count(k) for k in layers):
            raise ExitError(f"The layers of policy {self.name!r} must be positive integers, got {layers!r}.")
        if list(layers) != sorted(set(layers)):
            raise ExitError(f"The layers of policy {self.name!r} must ascend, got {list(layers)}.")
        self.criterion.check_exits(layers)
        if self.certificate is not None and len(self.certificate.exit_rates) != len(layers):
            raise ExitError(
                f"The certificate of policy {self.name!r} must have one exit rate per layer {list(layers)}, got "
                f"{len(self.certificate.exit_rates)}. Calibrate it again."
            )

    def decision(self) -> dict[str, Any]:
        """All that decides where a text leaves, for JSON and for fingerprints."""
        return {"criterion": self.criterion.as_dict(), "threshold": self.threshold, "layers": list(self.layers)}

    def as_dict(self) -> dict[str, Any]:
        """What is written to JSON, its name excepted."""
        certificate = None if self.certificate is None else dataclasses.asdict(self.certificate)
        if certificate is not None:
            certificate["exit_rates"] = list(certificate["exit_rates"])
        return {**self.decision(), "weights": self.weights, "certificate": certificate}


def policy_from_dict(name: str, content: Any) -> ExitPolicy:
    """The policy that ``as_dict`` described.

    Args:
        name: Its name.
        content: Anything JSON may hold.

    Returns:
        ExitPolicy: Checked.

    Raises:
        ExitError: If it is damaged.

    Example:
        >>> from st_plugins.exits import Saturation
        >>> policy = ExitPolicy("mine", Saturation(), 0.98, (2, 4, 6))
        >>> policy_from_dict("mine", policy.as_dict()) == policy
        True
    """
    names = {"criterion", "threshold", "layers", "weights", "certificate"}
    if not isinstance(content, dict) or set(content) != names:
        came = sorted(content) if isinstance(content, dict) else type(content).__name__
        raise ExitError(f"Exit policy {name!r} must have {sorted(names)}, got {came}. Calibrate it again.")
    if not isinstance(content["layers"], list) or not isinstance(content["weights"], str | None):
        raise ExitError(f"The layers or weights of exit policy {name!r} are damaged. Calibrate it again.")
    return ExitPolicy(
        name=name,
        criterion=criterion_from_dict(content["criterion"]),
        threshold=content["threshold"],
        layers=tuple(content["layers"]),
        weights=content["weights"],
        certificate=None if content["certificate"] is None else _certificate(name, content["certificate"]),
    )


def check_threshold(threshold: Any) -> None:
    """Raise :class:`~st_plugins.errors.ExitError` unless it is a number in [-1, 1], or 2."""
    is_number = isinstance(threshold, int | float) and not isinstance(threshold, bool)
    if not is_number or not (-1 <= threshold <= 1 or threshold == NEVER):
        raise ExitError(
            "threshold must be a number from -1 to 1 (a cosine), or 2 for texts never to leave early, got "
            f"{threshold!r}."
        )


def _certificate(name: str, content: Any) -> Certificate:
    fields: dict[str, Any] = {field.name: field.type for field in dataclasses.fields(Certificate)}
    if not isinstance(content, dict) or set(content) != set(fields):
        raise ExitError(f"The certificate of policy {name!r} must have {sorted(fields)}. Calibrate it again.")
    for field, value in content.items():
        parts = [value]
        if field == "exit_rates":
            parts = value if isinstance(value, list) else [None]
        kinds = fields[field] if fields[field] in (str, int) else int | float
        if not all(isinstance(part, kinds) and not isinstance(part, bool) and _is_finite(part) for part in parts):
            raise ExitError(f"{field} in the certificate of policy {name!r} is damaged: {value!r}. Calibrate it again.")
    return Certificate(**{**content, "exit_rates": tuple(content["exit_rates"])})


def _is_finite(value: Any) -> bool:
    return isinstance(value, str) or math.isfinite(value)
