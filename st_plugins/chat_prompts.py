"""A text inside a chat whose last turn is left open: what stands around it, and its tokens. Generates nothing."""

from collections.abc import Sequence
from typing import Any

from st_plugins.errors import InputError, UnsupportedModelError

# A character for private use, which no template changes and no message of ours holds.
TEXT = "\ue000"


def chat_frame(tokenizer: Any, messages: list[dict[str, str]]) -> tuple[str, str]:
    """What a chat template writes before and behind the text, of which :data:`TEXT` is the place.

    Args:
        tokenizer: With a chat template.
        messages: Turns with ``role`` and ``content``; the model would go on with the last one.

    Returns:
        tuple: The characters before and behind the text.

    Raises:
        UnsupportedModelError: If there is no template, or it refuses the turns, changes the last one or leaves the text
            out.

    Example:
        >>> tokenizer = SentenceTransformer("sentence-transformers/all-MiniLM-L6-v2").tokenizer
        >>> tokenizer.chat_template = "{% for m in messages %}[{{ m.role }}]{{ m.content }}[end]{% endfor %}"
        >>> turns = [{"role": "user", "content": f"Say {TEXT}!"}, {"role": "assistant", "content": "I say"}]
        >>> chat_frame(tokenizer, turns)
        ('[user]Say ', '![end][assistant]I say')
    """
    try:
        rendered = tokenizer.apply_chat_template(messages, tokenize=False, continue_final_message=True)
    except ImportError:
        raise
    except Exception as error:  # templates raise what they like
        roles = ", ".join(message["role"] for message in messages)
        raise UnsupportedModelError(
            f"The tokenizer must have a chat template that takes the turns {roles} and leaves the last one open; it "
            f"says: {str(error).rstrip('.')}. Take a chat model; where its template knows no system turn, pass "
            "system_message=None."
        ) from error
    parts = rendered.split(TEXT)
    if len(parts) != 2 or not parts[1].endswith(messages[-1]["content"]):
        raise UnsupportedModelError(
            f"The chat template must write every turn once and end with the last one, got {rendered[-80:]!r} for a "
            f"last turn of {messages[-1]['content']!r}. Take a chat model with another template."
        )
    return parts[0], parts[1]


def framed_ids(tokenizer: Any, texts: Sequence[str], frame: tuple[str, str], longest: float) -> list[list[int]]:
    """Token ids of texts in their frame. Where they are too many, the text loses its end; the frame is always whole.

    Args:
        tokenizer: A fast one.
        texts: n texts.
        frame: Of :func:`chat_frame`.
        longest: Tokens of a row, at most.

    Returns:
        list: n rows.

    Raises:
        InputError: If the frame alone is longer.

    Example:
        >>> tokenizer = SentenceTransformer("sentence-transformers/all-MiniLM-L6-v2").tokenizer
        >>> tokenizer.decode(framed_ids(tokenizer, ["a b c d e"], ("say ", " to me"), 5)[0])
        'say a b to me'
    """
    before, behind = frame
    encoded = tokenizer(
        [before + text + behind for text in texts],
        add_special_tokens=False,  # the template writes those it wants
        return_offsets_mapping=True,
        verbose=False,
    )
    rows = []
    for text, ids, places in zip(texts, encoded["input_ids"], encoded["offset_mapping"], strict=True):
        excess = len(ids) - longest
        if excess > 0:
            start, end = len(before), len(before) + len(text)
            inside = [row for row, (first, last) in enumerate(places) if first >= start and last <= end]
            if excess > len(inside):
                raise InputError(
                    f"The chat around a text takes {len(ids) - len(inside)} tokens, and max_seq_length is {longest}. "
                    "Raise model.max_seq_length, or shorten system_message and request."
                )
            dropped = set(inside[len(inside) - int(excess) :])
            ids = [token for row, token in enumerate(ids) if row not in dropped]
        rows.append(ids)
    return rows
