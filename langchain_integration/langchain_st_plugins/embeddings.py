"""LangChain embeddings with a layer and a dim per call."""

import hashlib
from collections.abc import Sequence
from concurrent.futures import Executor
from typing import Any, Literal, Self

import numpy as np
from langchain_core.embeddings import Embeddings
from langchain_core.runnables import run_in_executor
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, model_validator

from langchain_st_plugins.shared_encoder import SharedEncoder
from langchain_st_plugins.texts import check_texts
from langchain_st_plugins.unit_vectors import unit_vectors
from st_plugins.errors import ShapeError, SizeError


class ElasticEmbeddings(BaseModel, Embeddings):
    """Embeddings of one model at every size, always unit vectors.

    Queries go through the model's ``encode_query``, documents through ``encode_document``, so its prompts are used; no
    text is changed. Vectors are cut first and normalized after, whatever the encoder returned. Layer and dim are
    arguments of each call and never state of the model, so threads may mix sizes; calls to one encoder take turns.

    Args:
        model: Folder or hub id, loaded by ``st_plugins.load`` when it is first needed. Give this or ``encoder``.
        encoder: Any object whose ``encode_query(texts, **options)`` and ``encode_document(texts, **options)`` return an
            array (n, width): a SentenceTransformer, an ``OnnxEncoder``, your own. It gets the options
            ``show_progress_bar`` always, and ``layer``, ``truncate_dim``, ``batch_size``, ``allow_untrained`` only when
            they were asked for. It must not change while it is in use, and for a retriever needs a ``fingerprint``
            unless it is a SentenceTransformer.
        layer: Depth for documents and queries; None runs all layers.
        dim: Coordinates to keep; None keeps all.
        batch_size: Texts per batch; None leaves it to the encoder.
        device: Where ``model`` is put; None leaves it to sentence-transformers.
        show_progress: Show a bar while documents are embedded. Queries never show one.
        allow_untrained: Also run sizes the model was not trained for; without it an elastic model refuses them.

    Example:
        >>> embeddings = ElasticEmbeddings(model="minilm-elastic", dim=128)
        >>> len(embeddings.embed_query("What is a budget?"))
        128
        >>> embeddings.encode(["What is a budget?"], kind="query", layer=3).shape
        (1, 128)
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    model: str | None = None
    encoder: Any = Field(default=None, repr=False)
    layer: int | None = Field(default=None, ge=1)
    dim: int | None = Field(default=None, ge=1)
    batch_size: int | None = Field(default=None, ge=1)
    device: str | None = None
    show_progress: bool = False
    allow_untrained: bool = False

    _shared: SharedEncoder = PrivateAttr()

    @model_validator(mode="after")
    def _check_source(self) -> Self:
        if (self.model is None) == (self.encoder is None):
            raise ValueError(
                "ElasticEmbeddings needs exactly one of model and encoder, got "
                f"{'neither' if self.model is None else 'both'}. Pass model='folder or hub id', or encoder=an object "
                "with encode_query and encode_document."
            )
        missing = [
            name for name in ("encode_query", "encode_document") if not callable(getattr(self.encoder, name, None))
        ]
        if self.encoder is not None and missing:
            raise ValueError(
                f"encoder must have encode_query and encode_document, but {type(self.encoder).__name__} has no "
                f"{' and no '.join(missing)}. Pass a SentenceTransformer, an OnnxEncoder, or a folder as model=."
            )
        if self.encoder is not None and self.device is not None:
            raise ValueError(
                f"device is for model=, got {self.device!r} with an encoder. Move the encoder there yourself."
            )
        return self

    def model_post_init(self, context: Any) -> None:
        """Prepare the shared encoder; nothing is loaded yet."""
        encoder, model, device = self.encoder, self.model, self.device

        def load() -> Any:
            if model is None:
                return encoder
            import st_plugins  # here, because its load imports torch

            return st_plugins.load(model, device=device)

        self._shared = SharedEncoder(load)

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Embed documents; an empty list gives an empty list. See :meth:`encode` for what is refused."""
        return self.encode(texts).tolist()

    def embed_query(self, text: str) -> list[float]:
        """Embed one query."""
        return self.encode([text], kind="query", show_progress=False)[0].tolist()

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        """As :meth:`embed_documents`, on :attr:`executor`."""
        return await run_in_executor(self.executor, self.embed_documents, texts)

    async def aembed_query(self, text: str) -> list[float]:
        """As :meth:`embed_query`, on :attr:`executor`."""
        return await run_in_executor(self.executor, self.embed_query, text)

    def encode(
        self,
        texts: Sequence[str],
        *,
        kind: Literal["document", "query"] = "document",
        layer: int | None = None,
        dim: int | None = None,
        show_progress: bool | None = None,
    ) -> np.ndarray:
        """Embed texts as an array, an eighth of the memory of LangChain's lists of floats.

        Args:
            texts: A list or tuple of texts with at least one visible character each.
            kind: Which side of the search the texts are on.
            layer: Depth of this call; None takes the field.
            dim: Width of this call; None takes the field.
            show_progress: None takes the field.

        Returns:
            np.ndarray: (n, dim) float32 unit vectors; (0, dim) for no texts, with dim 0 where none was set.

        Raises:
            TypeError: If ``texts`` is not a list of str, or a size is not an integer.
            InputError: If a text is blank, or its vector is not finite or zero; the message names the position.
            SizeError: If the layer or dim does not exist, or was not trained (``UntrainedSizeError``).
        """
        if kind not in ("document", "query"):
            raise ValueError(f'kind must be "document" or "query", got {kind!r}.')
        check_texts(texts)
        options = self._options(layer, dim, show_progress)
        dim = options.get("truncate_dim")
        if not texts:
            return np.zeros((0, dim or 0), dtype=np.float32)
        vectors = unit_vectors(self._shared.encode(kind, list(texts), **options), dim=dim)
        if len(vectors) != len(texts):
            raise ShapeError(f"The encoder must return one row per text, got {len(vectors)} for {len(texts)} texts.")
        return vectors

    def with_budget(self, *, layer: int | None = None, dim: int | None = None) -> Self:
        """The same model at another size; weights, lock and thread are shared, so it costs nothing.

        Args:
            layer: Depth; None keeps this one's.
            dim: Width; None keeps this one's.

        Returns:
            Self: A copy.

        Example:
            >>> embeddings = ElasticEmbeddings(model="minilm-elastic")
            >>> len(embeddings.with_budget(layer=3, dim=64).embed_query("What is a budget?"))
            64
        """
        sizes = {"layer": layer, "dim": dim}
        return self.model_copy(update={name: _size(name, size) for name, size in sizes.items() if size is not None})

    def _options(self, layer: int | None, dim: int | None, show_progress: bool | None) -> dict[str, Any]:
        """What the encoder is called with: nothing that nobody asked for, since not every encoder knows it."""
        asked = {
            "layer": self.layer if layer is None else _size("layer", layer),
            "truncate_dim": self.dim if dim is None else _size("dim", dim),
            "batch_size": self.batch_size,
            "allow_untrained": self.allow_untrained or None,
            "show_progress_bar": self.show_progress if show_progress is None else show_progress,
        }
        return {name: value for name, value in asked.items() if value is not None}

    @property
    def executor(self) -> Executor:
        """The one thread on which async calls of this encoder run, in order of arrival."""
        return self._shared.executor

    @property
    def fingerprint(self) -> str:
        """Identity of the model, whatever its size: equal fingerprints mean vectors that may be compared."""
        return self._shared.fingerprint

    @property
    def cache_namespace(self) -> str:
        """A key for ``CacheBackedEmbeddings`` that differs whenever a document vector would: letters, digits, hyphens.

        Queries need a cache of their own, since most models embed a query and a document of the same text differently.
        """
        # Hashed, because an encoder's own fingerprint may hold any character.
        identity = hashlib.sha256(self.fingerprint.encode()).hexdigest()[:32]
        return f"{identity}-layer-{self.layer or 'full'}-dim-{self.dim or 'full'}"


def _size(name: str, value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} must be an integer of at least 1 or None, got {value!r}.")
    if value < 1:
        raise SizeError(f"{name} must be an integer of at least 1 or None, got {value}.")
    return int(value)
