"""What the first output of a graph, ``last_hidden_state``, holds: the layouts, and the check that a file keeps to one.

Consumers disagree about where a sentence vector comes from. Some take ``sentence_embedding``, others take the first
output and pool it, by a rule of their own. Of one vector repeated at each token every mean, first and last is that
vector, so the layout "portable" is right for all of them. It costs one copy of the vector per token.

The transformer is run by torch only where a file claims to hold what it gives.
"""

from typing import Any

import numpy as np

from st_plugins.errors import ParityError
from st_plugins_export.entries import ExportedExit, ExportedSize
from st_plugins_export.manifest import LAYOUTS
from st_plugins_export.opened import OpenedExport
from st_plugins_export.padded_static import with_padded_inputs
from st_plugins_export.sessions import OUTPUTS, TOKENS_OUTPUT


def check_layout(layout: str) -> None:
    """Raise ValueError unless there is such a layout."""
    if layout not in LAYOUTS:
        raise ValueError(f"layout must be one of {LAYOUTS}, got {layout!r}.")


def first_output(layout: str, token_embeddings: Any, sentence_embedding: Any) -> Any:
    """The first output of a graph.

    Args:
        layout: One of ``LAYOUTS``.
        token_embeddings: Tensor (B, T, D).
        sentence_embedding: Tensor (B, dim).

    Returns:
        Tensor: (B, T, dim) for "portable", ``token_embeddings`` itself for "tokens".

    Example:
        >>> first_output("portable", torch.zeros(1, 3, 4), torch.tensor([[5.0, 6.0]])).tolist()
        [[[5.0, 6.0], [5.0, 6.0], [5.0, 6.0]]]
    """
    if layout == "tokens":
        return token_embeddings
    return sentence_embedding[:, None].expand(-1, token_embeddings.shape[1], -1)


def check_repeated(opened: OpenedExport, graph: ExportedSize | ExportedExit) -> None:
    """Prove that the first output of a graph is the second one, repeated at each token and at the padding.

    Args:
        opened: An export with the layout "portable".
        graph: One of its sizes or exits.

    Raises:
        ParityError: If it is anything else.
    """
    texts = [probe.text for probe in opened.manifest.probes]  # of different lengths: there is padding
    layers = None
    if isinstance(graph, ExportedExit) and graph.name is None:  # the graph wants to be told
        layers = np.resize(graph.layers, len(texts))
    tokens, sentences = opened.run(OUTPUTS, opened.tokenize(texts), graph, layers)  # (B, T, dim), (B, dim)
    if not np.array_equal(tokens, np.broadcast_to(sentences[:, None], tokens.shape)):
        raise ParityError(
            f"The first output of {graph.file} must be its sentence embedding at each token, and is not. Report this "
            'architecture, or export with layout="tokens".'
        )


def check_tokens(model: Any, opened: OpenedExport, size: ExportedSize, *, tolerance: float) -> None:
    """Prove that the first output of a graph is what the transformer of a model gives for each token.

    Args:
        model: The plain ``SentenceTransformer`` of that size.
        opened: An export with the layout "tokens".
        size: One of its sizes.
        tolerance: Largest difference to accept, as a fraction of the largest number where that exceeds 1.

    Raises:
        ParityError: If a difference is larger.
    """
    model = with_padded_inputs(model)
    texts = [probe.text for probe in opened.manifest.probes]
    for text, encoding in zip(texts, opened.tokenize(texts), strict=True):
        (found,) = opened.run([TOKENS_OUTPUT], [encoding], size)  # (1, T, D)
        expected = model[0](model.preprocess([text], prompt=""))["token_embeddings"][0].detach().numpy()  # (T, D)
        difference = float(np.abs(found[0] - expected).max() / max(1.0, np.abs(expected).max()))
        if not difference <= tolerance:
            raise ParityError(
                f"The first output of {size.file} must be the token embeddings of torch to within {tolerance:.0e}, and "
                f"is {difference:.1e} off. Report this architecture, or raise the tolerance."
            )
