"""Lets a model read longer texts than it was made for, without training."""

from typing import Any, Literal, get_args

from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Transformer

from st_plugins.errors import InputError, SizeError, UnsupportedModelError
from st_plugins.long_texts.copied_transformers import copied_transformer, with_transformer
from st_plugins.long_texts.rotary_positions import check_rotary, scale_rotary
from st_plugins.modules import InterpolatedTransformer
from st_plugins.position_tables import FAMILIES, TABLE_METHODS, PositionTable, extended_table, stretch

Method = Literal["interpolate", "recurrent", "grouped", "ntk"]
METHODS = get_args(Method)


def extend_positions(
    model: SentenceTransformer,
    max_length: int,
    *,
    method: Method,
    original_length: int | None = None,
    keep_short: bool = False,
) -> SentenceTransformer:
    """The same model for texts of up to ``max_length`` tokens; nothing is trained.

    With N the original length and s = ceil(max_length / N), position p of a text becomes, in the old model's positions,

    - ``"interpolate"``: p / s. All texts change, unless ``keep_short``; a table that was not trained so makes short
      ones worse, the more the larger s is.
    - ``"recurrent"``: p mod N. Texts of up to N tokens are embedded exactly as before.
    - ``"grouped"``: floor(p / s). All texts change.
    - ``"ntk"``: for rotary positions: near tokens keep their distances, far ones come closer; the base of the
      frequencies grows.

    A learned table of positions (BERT, RoBERTa, XLM-RoBERTa, MPNet, DistilBERT, ELECTRA, ALBERT) is made longer. Rotary
    positions (ModernBERT, Llama, Mistral, Qwen and others) are scaled in the configuration, by max_length / N, for
    ``"interpolate"`` and ``"ntk"``. Either way a plain model comes out, which is saved, exported and loaded as before.
    What is best has to be tried: see ``benchmarks/long_context.py``. Attention takes time by the square of the length.

    Args:
        model: Starts with a ``Transformer``, elastic ones included; left as it is, the result shares its other weights.
        max_length: Tokens, special ones included; above N.
        method: See above. For a table start with ``"recurrent"``, which leaves short texts alone; for rotary positions
            with ``"ntk"``.
        original_length: N; None takes all positions the model has. Fewer leave out positions it was hardly trained at,
            where its ``max_seq_length`` is below them.
        keep_short: Give texts of up to N tokens the positions p s of an interpolated table: they are embedded exactly
            as before, longer ones at the positions between. No plain model can do that: the first module becomes an
            :class:`~st_plugins.modules.InterpolatedTransformer`.

    Returns:
        SentenceTransformer: Its ``max_seq_length`` is ``max_length``.

    Raises:
        InputError: If there is no such method, or it does not fit the model's kind of positions.
        SizeError: If ``max_length`` is not above the original length, or that is above what the model has.
        UnsupportedModelError: If the model has positions of another kind, like T5's or DeBERTa's, or was changed
            before; if ``keep_short`` is asked of a model that is not plain.

    References:
        LongEmbed, https://arxiv.org/abs/2404.12096. There s of ``"grouped"`` follows the longest text of the batch;
        here it is fixed, so that a text's vector does not depend on others.

    Example:
        >>> model = SentenceTransformer("sentence-transformers/all-MiniLM-L6-v2")
        >>> longer = extend_positions(model, 1024, method="recurrent")
        >>> longer.max_seq_length, longer.tokenizer.model_max_length, model.max_seq_length
        (1024, 1024, 256)
        >>> bool(abs(longer.encode("A text") - model.encode("A text")).max() < 1e-6)
        True
    """
    if method not in METHODS:
        raise InputError(f"method must be one of {', '.join(METHODS)}, got {method!r}.")
    transformer = copied_transformer(model, "extend_positions")
    if type(transformer) is InterpolatedTransformer:
        raise UnsupportedModelError(
            "The positions of this model were extended already. Extend the model that it was made from."
        )
    if transformer.auto_model.config.model_type in FAMILIES:
        transformer = _with_longer_table(transformer, max_length, method, original_length, keep_short)
    else:
        _scale_rotary(transformer.auto_model, max_length, method, original_length, keep_short)
    transformer.max_seq_length = max_length
    transformer.tokenizer.model_max_length = max_length
    return with_transformer(model, transformer)


def _with_longer_table(
    transformer: Any, max_length: int, method: Any, original_length: int | None, keep_short: bool
) -> Transformer:
    network = transformer.auto_model
    if method == "ntk":
        raise InputError(
            f"ntk is for rotary positions, and {type(network).__name__} has a learned table. "
            f"Take one of {', '.join(TABLE_METHODS)}."
        )
    table = PositionTable.of(network)
    original = _checked(table.length, max_length, original_length)
    rows = extended_table(table.rows[:original], stretch(original, max_length), method)
    table.replace(rows, network.config)
    if not keep_short:
        return transformer
    if method != "interpolate":
        raise InputError(f"keep_short is for method='interpolate', got {method!r}. Leave it out.")
    if type(transformer) is not Transformer:
        raise UnsupportedModelError(
            f"keep_short needs a first module that is a plain Transformer, got {type(transformer).__name__}. "
            "Extend the plain model, and leave keep_short out for others."
        )
    return InterpolatedTransformer.from_transformer(transformer, original)


def _scale_rotary(network: Any, max_length: int, method: str, original_length: int | None, keep_short: bool) -> None:
    check_rotary(network)
    if method not in ("interpolate", "ntk") or keep_short:
        raise InputError(
            f"{type(network).__name__} has rotary positions and no table of them: method must be interpolate or ntk, "
            f"and keep_short False, got {method!r} and {keep_short}."
        )
    original = _checked(network.config.max_position_embeddings, max_length, original_length)
    scale_rotary(network, max_length / original, method)
    network.config.max_position_embeddings = max_length


def _checked(length: int, max_length: int, original_length: int | None) -> int:
    original = length if original_length is None else original_length
    if not _is_integer(original) or not 1 <= original <= length:
        raise SizeError(
            f"original_length must be an integer from 1 to {length} (the positions the model has), got {original!r}."
        )
    if not _is_integer(max_length) or max_length <= original:
        raise SizeError(
            f"max_length must be an integer above the original length, {original}, got {max_length!r}. "
            "For shorter texts set model.max_seq_length."
        )
    return original


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
