"""What becomes of a fingerprint where the same vectors are computed in another precision. Imports no torch."""

import hashlib
import json


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
    if precision == "fp32":
        return identity
    return hashlib.sha256(json.dumps([identity, precision]).encode()).hexdigest()
