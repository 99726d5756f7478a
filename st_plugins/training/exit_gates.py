"""Trains the heads of a gate on texts without labels, in closed form. The model itself is not trained."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from sentence_transformers import SentenceTransformer
from torch import Tensor

from st_plugins.errors import ExitError
from st_plugins.exit_criteria import GATE_FEATURES, Gate, gate_features
from st_plugins.exits.traces import distinct, trace

# Ten texts per weight.
_FEWEST_TEXTS = 10 * GATE_FEATURES
_RIDGE = 1e-3


def train_gates(
    model: SentenceTransformer,
    texts: Sequence[str],
    *,
    prompt_name: str | None = None,
    prompt: str | None = None,
    batch_size: int = 32,
) -> Gate:
    """Fit one small linear head per exit that predicts cos(e_exit, e_full) of a text.

    With x what :class:`~st_plugins.exits.Gate` looks at, standardized but for its constant, and y the cosines of n
    texts, ridge regression at each exit::

        w = argmin_w  sum_i (w . x_i - y_i)^2 + 0.001 n |w without the constant|^2

    Args:
        model: An elastic model trained at layers to leave at; it is left as it is.
        texts: At least 50 distinct ones, of the kind that will be served. Not those of the calibration that follows:
            it would prove too much.
        prompt_name: As texts will be encoded, as for ``model.encode``.
        prompt: The same, in full.
        batch_size: Texts per batch.

    Returns:
        Gate: To be given to :func:`st_plugins.exits.calibrate_exits`. The same texts give the same gate.

    Raises:
        ExitError: If there are fewer than 50 distinct texts.
        InputError: If texts are none.
        UnsupportedModelError, UntrainedSizeError: If the model has no exits.

    References:
        A learned exit without labels: BERxiT, https://aclanthology.org/2021.eacl-main.8. The features and the closed
        form are ours.

    Example:
        >>> model = st_plugins.load("minilm-elastic")
        >>> train_gates(model, [f"text number {number}" for number in range(50)]).layers
        (3,)
    """
    texts = distinct(texts)
    if len(texts) < _FEWEST_TEXTS:
        raise ExitError(
            f"It takes at least {_FEWEST_TEXTS} distinct texts to train a gate, got {len(texts)}. Take more."
        )
    traced = trace(model, texts, prompt_name=prompt_name, prompt=prompt, batch_size=batch_size)
    heads = []
    for exits in range(1, len(traced.layers)):
        cosines = F.cosine_similarity(traced.embeddings[exits - 1], traced.embeddings[-1], dim=-1)  # (N,)
        heads.append(fit_head(gate_features(traced.pooled[:exits], traced.lengths), cosines))
    return Gate(traced.layers[:-1], tuple(heads))


def fit_head(features: Tensor, targets: Tensor) -> tuple[float, ...]:
    """Ridge regression, see :func:`train_gates`.

    Args:
        features: (N, F), the last column constant.
        targets: (N,).

    Returns:
        tuple: F weights for the features as they are; 0 for a feature that never varies.

    Example:
        >>> features = torch.tensor([[0.0, 1.0], [1.0, 1.0], [2.0, 1.0]])
        >>> [round(weight, 2) for weight in fit_head(features, torch.tensor([1.0, 3.0, 5.0]))]
        [2.0, 1.0]
    """
    x, y = features[:, :-1].double(), targets.double()
    means, deviations = x.mean(dim=0), x.std(dim=0, correction=0)
    varies = deviations > 1e-6
    z = (x - means) / deviations.where(varies, 1.0) * varies  # (N, F - 1)
    gram = z.T @ z / len(z) + _RIDGE * torch.eye(z.shape[1], dtype=z.dtype)
    slopes = torch.linalg.solve(gram, z.T @ (y - y.mean()) / len(z)) / deviations.where(varies, 1.0)
    return (*slopes.tolist(), float(y.mean() - slopes @ means))
