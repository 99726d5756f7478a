"""Sharper or blunter attention as other weights of the same model (TempScale)."""

from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor, nn

from st_plugins.blocks import find_blocks
from st_plugins.errors import SizeError, UnsupportedModelError
from st_plugins.long_texts.copied_transformers import copied_transformer, with_transformer

# What makes the queries in each block, by family. After Qwen3's norm of the queries a scale before it would be lost.
_QUERIES = {
    **dict.fromkeys(("albert", "bert", "electra", "roberta", "xlm-roberta"), "query"),
    **dict.fromkeys(("eurobert", "jina_embeddings_v3", "llama", "ministral", "mistral", "nomic_bert"), "q_proj"),
    **dict.fromkeys(("qwen2", "smollm3"), "q_proj"),
    "distilbert": "q_lin",
    "modernbert": "Wqkv",  # queries, keys and values in one; the queries come first
    "mpnet": "q",
    "qwen3": "q_norm",
    "t5": "q",
}
_BIAS = "relative_attention_bias"  # of MPNet and T5: a number for each distance, added to the products


def scale_attention(model: SentenceTransformer, temperature: float) -> SentenceTransformer:
    """The same model with its attention weights at another temperature: softmax(z / temperature) in every layer.

    Below 1 a token looks at fewer others, which keeps the embeddings of long texts apart; above 1 at more. Nothing is
    trained. z is linear in the queries, so dividing the weights that make them does it, and a plain model comes out
    that saves, exports and runs as before; where numbers are added to z for the distance of tokens, they are divided
    too. Which temperature helps, if any, has to be tried.

    Args:
        model: Starts with a ``Transformer``, elastic ones included, of a family for which this is exact: ALBERT, BERT,
            DistilBERT, ELECTRA, EuroBERT, Jina v3, Llama, Ministral, Mistral, ModernBERT, MPNet, NomicBERT, Qwen2,
            Qwen3, RoBERTa, SmolLM3, the T5 encoder, XLM-RoBERTa. It is left as it is; the result shares its
            other weights.
        temperature: Above 0; 1 changes nothing. In half precision powers of two are exact, others rounded.

    Returns:
        SentenceTransformer: Twice scaled is scaled by the product.

    Raises:
        SizeError: If the temperature is not a positive number.
        UnsupportedModelError: If the family is another one, whose attention may not be linear in its queries, or its
            queries are made by something else than a plain layer, for instance by an adapter.

    References:
        *Length-Induced Embedding Collapse in PLM-based Models*, https://arxiv.org/abs/2410.24200 (TempScale). Its code
        scales BERT, RoBERTa and T5, and silently nothing else.

    Example:
        >>> model = SentenceTransformer("sentence-transformers/all-MiniLM-L6-v2")
        >>> sharper = scale_attention(model, 0.8)
        >>> float(sharper.encode("A text") @ model.encode("A text")) > 0.9
        True
    """
    if isinstance(temperature, bool) or not isinstance(temperature, int | float) or not 0 < temperature < float("inf"):
        raise SizeError(f"temperature must be a positive number, got {temperature!r}. 1 changes nothing.")
    transformer = copied_transformer(model, "scale_attention")
    network = transformer.auto_model
    family = network.config.model_type
    if family not in _QUERIES:
        raise UnsupportedModelError(
            f"The attention of {type(network).__name__} ({family}) is not known to be linear in weights of its queries."
            f" Known are {', '.join(sorted(_QUERIES))}."
        )
    stack = find_blocks(network)
    makers = _named(network, _QUERIES[family])
    wanted = 1 if stack.is_shared else stack.depth
    if len(makers) != wanted or any(isinstance(maker, nn.Linear) and type(maker) is not nn.Linear for maker in makers):
        raise UnsupportedModelError(
            f"{type(network).__name__} must make its queries by {wanted} plain layers named {_QUERIES[family]}, got "
            f"{sorted({type(maker).__name__ for maker in makers})}, {len(makers)} of them. Merge adapters first."
        )
    for maker in makers:
        rows = len(maker.weight) // 3 if family == "modernbert" else None
        _divide(maker, temperature, rows)
    for bias in _named(network, _BIAS):
        _divide(bias, temperature, None)
    return with_transformer(model, transformer)


def _named(network: nn.Module, name: str) -> list[Any]:
    return [module for path, module in network.named_modules() if path.rpartition(".")[2] == name]


def _divide(module: nn.Module, temperature: float, rows: int | None) -> None:
    """Put new parameters in the place of a module's, whose first rows, or all, are divided."""
    for name, parameter in list(module.named_parameters(recurse=False)):
        scaled: Tensor = parameter.detach().clone()
        scaled[:rows] = (scaled[:rows].to(torch.promote_types(scaled.dtype, torch.float32)) / temperature).to(
            scaled.dtype
        )
        setattr(module, name, nn.Parameter(scaled, requires_grad=parameter.requires_grad))
