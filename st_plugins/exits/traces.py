"""What a set of texts looks like at every exit: run once, ask for every criterion and threshold."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor

from st_plugins.errors import InputError, UntrainedSizeError
from st_plugins.exit_criteria import Criterion, masked_mean
from st_plugins.first_modules import elastic_transformer
from st_plugins.functional import by_layer, truncate
from st_plugins.layer_batches import layer_batches


@dataclass(frozen=True)
class Trace:
    """N texts at S exits.

    Args:
        layers: The S exits, ascending; at the last one everything leaves.
        pooled: (S, N, H) mean token embeddings, what criteria see.
        lengths: (N,) tokens.
        embeddings: (S, N, D) sentence embeddings, what the model returns.

    Example:
        >>> trace = Trace((1, 2, 3), torch.ones(3, 1, 4), torch.tensor([5]), torch.ones(3, 1, 4))
        >>> from st_plugins.exits import Saturation
        >>> trace.exits(trace.scores(Saturation()), 0.9)
        tensor([1])
    """

    layers: tuple[int, ...]
    pooled: Tensor
    lengths: Tensor
    embeddings: Tensor

    def scores(self, criterion: Criterion) -> Tensor:
        """(S - 1, N), the scores at every exit but the last."""
        exits = range(1, len(self.layers))
        return torch.stack([criterion.score(self.pooled[:count], self.lengths) for count in exits])

    def exits(self, scores: Tensor, threshold: float) -> Tensor:
        """(N,), index of the exit where each text leaves: the first whose score reaches the threshold."""
        leaves = torch.cat([scores >= threshold, torch.ones_like(scores[:1], dtype=torch.bool)])
        return leaves.int().argmax(dim=0)


def exit_layers(model: SentenceTransformer) -> tuple[int, ...]:
    """The layers texts may leave at, the last one included.

    Raises:
        UnsupportedModelError: If the model is not elastic.
        UntrainedSizeError: If there is none but the last.
    """
    layers = elastic_transformer(model, "exits").trained_layers()
    if len(layers) < 2:
        raise UntrainedSizeError(
            f"Exits need a model trained at layers below {layers[-1]}, this one was trained at none. Train it with "
            "st_plugins.losses.ElasticLoss; if it was trained elsewhere, say so: st_plugins.elastic(model, sizes=...)."
        )
    return tuple(layers)


def distinct(texts: Sequence[str]) -> list[str]:
    """The texts in their order, each once.

    Raises:
        InputError: If there are none, or something is no text.
    """
    if isinstance(texts, str):
        raise InputError("texts must be a list of texts, got one text. Put it in a list.")
    for position, text in enumerate(texts):
        if not isinstance(text, str):
            raise InputError(f"texts must be texts, got {type(text).__name__} at position {position}.")
    if not len(texts):
        raise InputError("texts must hold at least one text, got none.")
    return list(dict.fromkeys(texts))


@torch.inference_mode()
def trace(
    model: SentenceTransformer,
    texts: Sequence[str],
    *,
    prompt_name: str | None = None,
    prompt: str | None = None,
    batch_size: int = 32,
) -> Trace:
    """Run texts once and keep what each exit would give. The model is in evaluation mode afterwards, as after encode.

    Args:
        model: An elastic model, trained at layers to leave at.
        texts: N texts.
        prompt_name: As for ``model.encode``.
        prompt: As for ``model.encode``.
        batch_size: Texts per batch, sorted by length.

    Returns:
        Trace: On the CPU, texts in their order; embeddings cut to ``model.truncate_dim`` if that is set.

    Raises:
        InputError: If the prompt name is unknown.
        UnsupportedModelError, UntrainedSizeError: If the model has no exits.

    Example:
        >>> model = st_plugins.load("minilm-elastic")
        >>> trace(model, ["One text", "Another"]).embeddings.shape
        torch.Size([2, 2, 384])
    """
    layers = exit_layers(model)
    prompt = wanted_prompt(model, prompt_name, prompt)
    model.eval()
    pooled, embeddings, lengths, order = [], [], [], []
    for places, inputs, outputs in layer_batches(model, texts, layers, prompt=prompt, batch_size=batch_size):
        mask = inputs["attention_mask"]
        means = masked_mean(outputs["token_embeddings"], mask.repeat(len(layers), 1))
        pooled.append(by_layer(means, layers).cpu())
        embeddings.append(by_layer(outputs["sentence_embedding"], layers).float().cpu())
        lengths.append(mask.sum(dim=1).cpu())
        order.append(places)
    back = torch.from_numpy(np.argsort(np.concatenate(order)))
    vectors = torch.cat(embeddings)[back].transpose(0, 1)
    if model.truncate_dim is not None:
        vectors = truncate(vectors, model.truncate_dim)
    return Trace(layers, torch.cat(pooled)[back].transpose(0, 1), torch.cat(lengths)[back], vectors)


def wanted_prompt(model: SentenceTransformer, prompt_name: str | None, prompt: str | None) -> str | None:
    """What ``model.encode`` would put before each text, given these two arguments.

    Raises:
        InputError: If the prompt name is unknown.

    Example:
        >>> wanted_prompt(st_plugins.load("minilm-elastic"), None, "find: ")
        'find: '
    """
    if prompt is not None:
        return prompt
    name = prompt_name if prompt_name is not None else model.default_prompt_name
    if name is not None and name not in model.prompts:
        raise InputError(f"prompt_name must be a prompt of the model, {sorted(model.prompts)}, got {name!r}.")
    return None if name is None else model.prompts[name]
