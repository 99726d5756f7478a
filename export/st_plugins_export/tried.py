"""What the graphs of an export were compared on: kinds of text, lengths, batches, prompts. Compares nothing."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Tried:
    """The texts of a comparison. ``str(tried)`` is a sentence.

    Args:
        texts: How many each graph was given, a text counted in every batch it was part of.
        shortest: Tokens of the shortest one.
        longest: Tokens of the longest one, cut to the model's limit.
        kinds: Tokens of each kind of probe, without a prompt. Empty if somebody gave the texts.
        batches: By the number of texts in a batch, the tokens of the longest text in any batch of so many.
        prompts: What was in front of the texts; ``""`` is no prompt.

    Example:
        >>> print(Tried(36, 2, 256, {"empty": 2, "full length": 256}, {1: 256, 3: 256, 32: 256}, ("", "query: ")))
        36 texts of 2 to 256 tokens: empty (2), full length (256); in batches of 1 x 256, 3 x 256, 32 x 256; 1 prompt
    """

    texts: int
    shortest: int
    longest: int
    kinds: dict[str, int]
    batches: dict[int, int]
    prompts: tuple[str, ...]

    def __str__(self) -> str:
        kinds = ", ".join(f"{kind} ({tokens})" for kind, tokens in self.kinds.items())
        batches = ", ".join(f"{rows} x {tokens}" for rows, tokens in sorted(self.batches.items()))
        count = sum(1 for prompt in self.prompts if prompt)
        prompts = f"; {count} prompt{'s' if count > 1 else ''}" if count else ""
        texts = f"{self.texts} text{'s' if self.texts > 1 else ''} of {self.shortest} to {self.longest} tokens"
        return f"{texts}{': ' if kinds else ''}{kinds}; in batches of {batches}{prompts}"


def joined(parts: Iterable[Tried]) -> Tried:
    """What several exports were compared on, together.

    Args:
        parts: At least one.

    Example:
        >>> one = Tried(1, 3, 3, {"one word": 3}, {1: 3}, ("",))
        >>> joined([one, Tried(3, 1, 9, {"one word": 1}, {3: 9}, ("",))])
        Tried(texts=4, shortest=1, longest=9, kinds={'one word': 3}, batches={1: 3, 3: 9}, prompts=('',))
    """
    parts = list(parts)
    kinds: dict[str, int] = {}
    batches: dict[int, int] = {}
    for part in parts:
        kinds.update({kind: max(tokens, kinds.get(kind, 0)) for kind, tokens in part.kinds.items()})
        batches.update({rows: max(tokens, batches.get(rows, 0)) for rows, tokens in part.batches.items()})
    return Tried(
        sum(part.texts for part in parts),
        min(part.shortest for part in parts),
        max(part.longest for part in parts),
        kinds,
        batches,
        tuple(dict.fromkeys(prompt for part in parts for prompt in part.prompts)),
    )
