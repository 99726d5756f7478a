"""What becomes of a fingerprint where the same vectors are computed or used otherwise. Imports no torch."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any


def with_precision(identity: str, precision: str) -> str:
    """The fingerprint of vectors that are computed in another precision.

    Args:
        identity: Their fingerprint in float32.
        precision: As in :func:`st_plugins.fingerprint`; ``"fp32"`` changes nothing.

    Returns:
        str: 64 hexadecimal digits.

    Example:
        >>> with_precision("9f", "fp32"), with_precision("9f", "fp16")[:8]
        ('9f', '325b5367')
    """
    return identity if precision == "fp32" else _hashed([identity, precision])


def changed(identity: str, changes: Mapping[str, Any]) -> str:
    """The fingerprint of vectors to which something was done after they were identified.

    Args:
        identity: Their fingerprint before.
        changes: What was done, as JSON can say it; nothing changes nothing.

    Returns:
        str: 64 hexadecimal digits.

    Example:
        >>> changed("9f", {}), changed("9f", {"dim": 8}) == changed("9f", {"dim": 16})
        ('9f', False)
    """
    return _hashed([identity, dict(changes)]) if changes else identity


def _hashed(content: list[Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
