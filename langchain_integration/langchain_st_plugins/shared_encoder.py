"""One encoder and what must exist once per encoder: its lock, its thread, its fingerprints."""

import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from typing import Any, ClassVar, Self

from langchain_st_plugins.exit_calls import encode_with_exits, exit_fingerprint, is_sentence_transformer
from st_plugins.located_errors import encode_located
from st_plugins.usual_prompts import usual_name


class Turns:
    """The lock and the thread of one encoder.

    Tokenizers can fail with "Already borrowed" when threads share them (transformers#47085). Taking turns costs
    nothing, because one call uses every core by itself.

    Args:
        encoder: Kept, so that no other object gets its ``id``; None if it is still to be loaded.

    Example:
        >>> encoder = object()
        >>> Turns.of(encoder) is Turns.of(encoder)
        True
    """

    # Whoever holds an encoder holds its turns; the last one to go takes the entry along.
    _known: ClassVar[weakref.WeakValueDictionary[int, Self]] = weakref.WeakValueDictionary()
    _making = threading.Lock()

    def __init__(self, encoder: Any = None) -> None:
        self._encoder = encoder
        self.lock = threading.Lock()
        # For async callers. On asyncio's default pool a few long calls would keep unrelated work waiting for seconds.
        self.executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="elastic-embeddings")

    @classmethod
    def of(cls, encoder: Any) -> Self:
        """Those of an encoder that exists, the same for all who ask."""
        with cls._making:
            turns = cls._known.get(id(encoder))
            if turns is None:
                turns = cls._known[id(encoder)] = cls(encoder)
            return turns


class SharedEncoder:
    """An encoder that is loaded on first use and serves one caller at a time.

    It is shared by all budgets of one :class:`~langchain_st_plugins.ElasticEmbeddings`. It does not check texts and
    does not touch vectors.

    Args:
        load: Returns the encoder; called once, by the first call that needs it.
        turns: Of the encoder, if it exists already; None makes new ones.

    Example:
        >>> shared = SharedEncoder(lambda: st_plugins.load("minilm-elastic"))
        >>> vectors, layers = shared.encode("query", ["A text"], layer=3)
        >>> vectors.shape
        (1, 384)
    """

    def __init__(self, load: Callable[[], Any], *, turns: Turns | None = None) -> None:
        self._load = load
        self._encoder: Any = None
        self._fingerprints: dict[Any, str] = {}
        self._turns = Turns() if turns is None else turns
        self._lock = self._turns.lock

    @property
    def executor(self) -> Executor:
        """The one thread on which async calls of the encoder run."""
        return self._turns.executor

    def encode(self, kind: str, texts: list[str], **options: Any) -> tuple[Any, Any]:
        """What ``encode_query`` or ``encode_document`` of the encoder returns.

        Args:
            kind: "query" or "document".
            texts: The texts.
            **options: Passed on as they are; which ones exist is the encoder's business. With ``exit`` texts may leave
                early.

        Raises:
            InputError: If a text cannot be embedded; the message names its position.

        Returns:
            tuple: An array (n, width) as the encoder made it, and the layers (n,) at which the texts left: None without
            ``exit``, or if the encoder does not say.
        """
        with self._lock:
            encoder = self._loaded()
            if "exit" in options:
                return encode_with_exits(encoder, kind, texts, **options)
            method = encoder.encode_query if kind == "query" else encoder.encode_document
            if is_sentence_transformer(encoder):  # sorts the texts, and does not know afterwards which was which
                return encode_located(partial(method, **options), texts), None
            return method(texts, **options), None

    @property
    def fingerprint(self) -> str:
        """Identity of the encoder's vectors, computed once: an encoder must not change while it is in use."""
        return self._once("full", _fingerprint)

    def progress(
        self, kind: str, text: str, layers: Sequence[int], *, allow_untrained: bool
    ) -> Iterator[tuple[int, Any]]:
        """One text at deeper and deeper layers. Others have their turn between two of them.

        Raises:
            TypeError: If the encoder is no SentenceTransformer.
        """
        with self._lock:
            encoder = self._loaded()
            if not is_sentence_transformer(encoder):
                raise TypeError(
                    f"encode_progressive needs a SentenceTransformer, got {type(encoder).__name__}, which cannot go on "
                    "where it stopped. Call encode(layer=...) for each layer."
                )
            import st_plugins  # here, because it imports torch

            name = usual_name(encoder.prompts, kind)
            steps = st_plugins.exits.encode_progressively(
                encoder, text, layers, prompt_name=name, allow_untrained=allow_untrained
            )
        return self._in_turn(steps)

    def _in_turn(self, steps: Iterator[Any]) -> Iterator[Any]:
        while True:
            with self._lock:
                step = next(steps, None)
            if step is None:
                return
            yield step

    def exit_fingerprint(self, exit: str | float, *, allow_untrained: bool) -> str:
        """Identity of its vectors with early exits, computed once per exit.

        Args:
            exit: A policy's name, or a threshold.
            allow_untrained: A threshold then means all layers.

        Raises:
            ExitError: If there is no such policy.
        """
        return self._once(
            (exit, allow_untrained), lambda encoder: exit_fingerprint(encoder, exit, allow_untrained=allow_untrained)
        )

    def _once(self, key: Any, compute: Callable[[Any], str]) -> str:
        with self._lock:
            if key not in self._fingerprints:
                self._fingerprints[key] = compute(self._loaded())
            return self._fingerprints[key]

    def _loaded(self) -> Any:
        if self._encoder is None:
            self._encoder = self._load()
        return self._encoder


def check_encoder(encoder: Any, advice: str) -> None:
    """Do nothing if the object can encode queries and documents.

    Args:
        encoder: Any object.
        advice: What to pass in place of one that cannot.

    Raises:
        ValueError: If it lacks a method.
    """
    missing = [name for name in ("encode_query", "encode_document") if not callable(getattr(encoder, name, None))]
    if missing:
        raise ValueError(
            f"encoder must have encode_query and encode_document, but {type(encoder).__name__} has no "
            f"{' and no '.join(missing)}. {advice}"
        )


def _fingerprint(encoder: Any) -> str:
    own = getattr(encoder, "fingerprint", None)
    if own is not None:
        return str(own() if callable(own) else own)
    if not is_sentence_transformer(encoder):
        raise TypeError(
            f"An encoder must be a SentenceTransformer or have a fingerprint, and {type(encoder).__name__} has none. "
            "Give it an attribute fingerprint, a str that changes whenever its vectors do."
        )
    import st_plugins  # here, because it imports torch

    return st_plugins.fingerprint(encoder)
