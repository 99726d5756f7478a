"""Texts longer than a model was made for, without training: more positions, windows, and sharper attention.

:func:`extend_positions` makes a plain model of another length limit, :func:`self_extend` groups the positions of far
tokens, :class:`ContextWindows` leaves the model as it is
and averages over pieces of the text, :func:`scale_attention` sharpens or blunts what attention looks at.
"""

from st_plugins.long_texts.attention_temperature import scale_attention
from st_plugins.long_texts.context_windows import ContextWindows
from st_plugins.long_texts.position_extension import extend_positions
from st_plugins.long_texts.self_extension import self_extend

__all__ = ["ContextWindows", "extend_positions", "scale_attention", "self_extend"]
