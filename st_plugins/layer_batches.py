"""Texts through a model, batch by batch, at several layers at once. What is kept of them is the caller's choice."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from sentence_transformers import SentenceTransformer
from sentence_transformers.util import batch_to_device
from tqdm.auto import tqdm


def layer_batches(
    model: SentenceTransformer,
    texts: Sequence[str],
    layers: tuple[int, ...],
    *,
    prompt: str | None = None,
    batch_size: int = 32,
    show_progress: bool = False,
) -> Iterator[tuple[np.ndarray, dict[str, Any], dict[str, Any]]]:
    """Run texts of like length together, the longest first.

    Args:
        model: Elastic, in evaluation mode; the caller decides about gradients.
        texts: N texts.
        layers: S layers, see :class:`~st_plugins.modules.ElasticTransformer`.
        prompt: Goes before every text.
        batch_size: Texts per batch.
        show_progress: Whether a bar counts the batches.

    Yields:
        tuple: Where the B texts are in ``texts``, what goes into the model, and what comes out, with S * B rows.

    Example:
        >>> model = st_plugins.load("minilm-elastic").eval()
        >>> [places.tolist() for places, _, _ in layer_batches(model, ["a", "a long one"], (3, 6), batch_size=1)]
        [[1], [0]]
    """
    order = np.argsort([-len(text) for text in texts], kind="stable")
    starts = range(0, len(order), batch_size)
    for start in tqdm(starts, desc="Layers", unit="batch", disable=not show_progress):
        places = order[start : start + batch_size]
        inputs: Any = model.preprocess([texts[place] for place in places], prompt=prompt)
        inputs = batch_to_device(inputs, model.device)
        yield places, inputs, model({**inputs, "layers": layers})
