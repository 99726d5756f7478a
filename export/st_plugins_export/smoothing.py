"""SmoothQuant: large columns of activations handed over to the weights, so that one scale per token loses less.

With a_k the largest |x_k| over calibration texts, w_k the largest |W_k| over the products that read x, a strength s::

    o_k = a_k^s / w_k^(1 - s)        x W = (x / o) (o W)

Xiao et al., *SmoothQuant*, ICML 2023, https://arxiv.org/abs/2211.10438, equation (4).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from st_plugins_export.observing import column_maxima
from st_plugins_export.products import find_products
from st_plugins_export.row_int8 import to_row_int8

STRENGTH = 0.6


def smoothed_int8(model: Any, batches: Sequence[Mapping[str, np.ndarray]]) -> Any:
    """The graph in row-wise int8, smoothed with strength 0.6.

    Args:
        model: ``onnx.ModelProto`` in float32; left as it is.
        batches: Inputs to fit it to. What they never reach is not smoothed.

    Returns:
        onnx.ModelProto: The same inputs and outputs, of the same types.
    """
    weights: dict[str, np.ndarray] = {}
    for product in find_products(model.graph):
        columns = np.abs(product.weight).max(axis=1)  # (K,)
        weights[product.activation] = np.maximum(weights.get(product.activation, 0), columns)
    return to_row_int8(model, divisors(column_maxima(model, weights.keys(), batches), weights, STRENGTH))


def divisors(
    maxima: Mapping[str, np.ndarray], weights: Mapping[str, np.ndarray], strength: float
) -> dict[str, np.ndarray]:
    """What to divide activations by: o (K,), by name.

    Args:
        maxima: a (K,) by the name of the activation.
        weights: w (K,) likewise.
        strength: s, from 0 (weights become even) to 1 (activations do).

    Returns:
        dict: float32. Columns that are zero have 1.

    Example:
        >>> found = divisors({"x": np.array([4.0, 0.0])}, {"x": np.array([1.0, 1.0])}, 0.5)
        >>> found["x"].tolist()
        [2.0, 1.0]
    """
    result = {}
    for name, columns in maxima.items():
        is_used = (columns > 0) & (weights[name] > 0)
        divisor = np.ones_like(columns)
        divisor[is_used] = columns[is_used] ** strength / weights[name][is_used] ** (1 - strength)
        result[name] = divisor.astype(np.float32)
    return result
