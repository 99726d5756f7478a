"""LangChain embeddings with a layer, a dim and an exit per call."""

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from typing import Any, Literal, Self

import numpy as np
from langchain_core.embeddings import Embeddings
from langchain_core.runnables import run_in_executor
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, StrictFloat, StrictStr, model_validator

from langchain_st_plugins.budgets import Budget
from langchain_st_plugins.shared_encoder import SharedEncoder, Turns, check_encoder
from langchain_st_plugins.texts import check_texts, is_text
from langchain_st_plugins.unit_vectors import unit_vectors
from st_plugins.backends import Backend, open_encoder
from st_plugins.errors import ShapeError

Kind = Literal["document", "query"]


class ElasticEmbeddings(BaseModel, Embeddings):
    """Embeddings of one model at every size, always unit vectors.

    Queries go through the model's ``encode_query``, documents through ``encode_document``, so its prompts are used; no
    text is changed. Vectors are cut first and normalized after, whatever the encoder returned. Layer, dim and exit are
    arguments of each call and never state of the model, so threads may mix them; calls to one encoder take turns.

    Args:
        model: Folder or hub id, opened when it is first needed. Give this or ``encoder``.
        encoder: Any object whose ``encode_query(texts, **options)`` and ``encode_document(texts, **options)`` return an
            array (n, width): a SentenceTransformer, an ``OnnxEncoder``, your own. It gets the options
            ``show_progress_bar`` always, and ``layer``, ``truncate_dim``, ``exit``, ``batch_size``, ``allow_untrained``
            only when they were asked for. It must not change while it is in use, and for a retriever needs a
            ``fingerprint`` unless it is a SentenceTransformer.
        layer: Depth for documents and queries; None runs all layers.
        dim: Coordinates to keep; None keeps all.
        exit: Lets queries leave early: the name of a policy of the model, or a cosine like 0.98. Documents stay to the
            end, because vectors that left at different layers compare worse with one another.
        document_exit: The same for documents.
        backend: For ``model``: "auto" runs a folder that ``st_plugins_export`` wrote with ONNX Runtime, and all else
            with torch.
        batch_size: Texts per batch; None leaves it to the encoder.
        device: Where ``model`` runs, like "cuda"; None leaves it to the backend.
        threads: Threads that ``model`` may use; None leaves it to the backend. In torch a setting of the whole process.
        show_progress: Show a bar while documents are embedded. Queries never show one.
        allow_untrained: Also run sizes the model was not trained for; without it an elastic model refuses them.
        empty_text: "zero" gives blank documents zeros in place of an error, for other stores that want a vector of
            every row. Queries, and :class:`ElasticVectorStore`, refuse blank texts all the same.

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
    exit: StrictStr | StrictFloat | None = None
    document_exit: StrictStr | StrictFloat | None = None
    backend: Backend = "auto"
    batch_size: int | None = Field(default=None, ge=1)
    device: str | None = None
    threads: int | None = Field(default=None, ge=1)
    show_progress: bool = False
    allow_untrained: bool = False
    empty_text: Literal["raise", "zero"] = "raise"

    _shared: SharedEncoder = PrivateAttr()

    @model_validator(mode="after")
    def _check_source(self) -> Self:
        if (self.model is None) == (self.encoder is None):
            raise ValueError(
                "ElasticEmbeddings needs exactly one of model and encoder, got "
                f"{'neither' if self.model is None else 'both'}. Pass model='folder or hub id', or encoder=an object "
                "with encode_query and encode_document."
            )
        if self.encoder is not None:
            check_encoder(self.encoder, "Pass a SentenceTransformer, an OnnxEncoder, or a folder as model=.")
        settings = {"device": None, "threads": None, "backend": "auto"}
        for name, default in settings.items():
            if self.encoder is not None and getattr(self, name) != default:
                raise ValueError(
                    f"{name} is for model=, got {getattr(self, name)!r} with an encoder. Set up the encoder yourself."
                )
        return self

    def model_post_init(self, context: Any) -> None:
        """Prepare the shared encoder; nothing is loaded yet."""
        encoder, model = self.encoder, self.model
        backend, device, threads = self.backend, self.device, self.threads

        def load() -> Any:
            return encoder if model is None else open_encoder(model, backend=backend, device=device, threads=threads)

        self._shared = SharedEncoder(load, turns=None if encoder is None else Turns.of(encoder))

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
        kind: Kind = "document",
        layer: int | None = None,
        dim: int | None = None,
        exit: str | float | None = None,
        show_progress: bool | None = None,
    ) -> np.ndarray:
        """Embed texts as an array, an eighth of the memory of LangChain's lists of floats.

        Args:
            texts: A list or tuple of texts with at least one visible character each.
            kind: Which side of the search the texts are on.
            layer: Depth of this call; None takes the field. Given without ``exit`` it means no early exits.
            dim: Width of this call; None takes the field.
            exit: Early exits of this call, ``layer`` being the deepest then; None takes the field of that kind.
            show_progress: None takes the field.

        Returns:
            np.ndarray: (n, dim) float32 unit vectors; (0, dim) for no texts, with dim 0 where none was set.

        Raises:
            TypeError: If ``texts`` is not a list of str, a size not an integer, or an exit no name or number.
            InputError: If a text is blank (see ``empty_text``), or its vector is not finite or zero; the message names
                the position.
            SizeError: If the layer or dim does not exist, or was not trained (``UntrainedSizeError``).
            ExitError: If the encoder has no such policy, or cannot let texts leave.
        """
        return self.encode_with_exits(texts, kind=kind, layer=layer, dim=dim, exit=exit, show_progress=show_progress)[0]

    def encode_with_exits(
        self,
        texts: Sequence[str],
        *,
        kind: Kind = "query",
        layer: int | None = None,
        dim: int | None = None,
        exit: str | float | None = None,
        show_progress: bool | None = None,
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Embed texts, and say at which layer each one left. Arguments and errors are those of :meth:`encode`.

        Returns:
            tuple: (n, dim) as from :meth:`encode`, and (n,) integers; None where there are no exits, no texts, or an
            encoder that does not say.

        Example:
            >>> embeddings = ElasticEmbeddings(model="minilm-elastic", allow_untrained=True)
            >>> vectors, layers = embeddings.encode_with_exits(["What is a budget?"], exit=-1.0)
            >>> layers.tolist()
            [2]
        """
        if kind not in ("document", "query"):
            raise ValueError(f'kind must be "document" or "query", got {kind!r}.')
        check_texts(texts, blank=kind == "document" and self.empty_text == "zero")
        budget = Budget.checked(layer, dim, exit).over(self.budget(kind))
        if not texts:
            return np.zeros((0, budget.dim or 0), dtype=np.float32), None
        present = np.array([is_text(text) for text in texts])
        if not present.all():
            return self._around_blanks(texts, present, budget, show_progress)
        options = self._options(budget, show_progress)
        vectors, layers = self._shared.encode(kind, list(texts), **options)
        vectors = unit_vectors(vectors, dim=budget.dim)
        if len(vectors) != len(texts):
            raise ShapeError(f"The encoder must return one row per text, got {len(vectors)} for {len(texts)} texts.")
        return vectors, None if layers is None else np.asarray(layers)

    def _around_blanks(
        self, texts: Sequence[str], present: np.ndarray, budget: Budget, show_progress: bool | None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Documents of which some are blank: zeros there, layer 0, and nothing run for them."""
        written = [text for text, is_there in zip(texts, present, strict=True) if is_there]
        # Where all are blank, some text must tell the width.
        embedded, left = self.encode_with_exits(
            written or ["."], kind="document", **budget._asdict(), show_progress=show_progress
        )
        vectors = np.zeros((len(texts), embedded.shape[1]), dtype=np.float32)
        vectors[present] = embedded[: len(written)]
        if left is None:
            return vectors, None
        layers = np.zeros(len(texts), dtype=left.dtype)
        layers[present] = left[: len(written)]
        return vectors, layers

    def encode_progressive(
        self, text: str, layers: Sequence[int], *, kind: Kind = "query", dim: int | None = None
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Embed one text at deeper and deeper layers; blocks run when the next vector is asked for.

        Args:
            text: As for :meth:`encode`.
            layers: Ascending.
            kind: As for :meth:`encode`.
            dim: As for :meth:`encode`.

        Yields:
            tuple: A layer, and (dim,) float32.

        Raises:
            TypeError: If the encoder is no SentenceTransformer. Others as :meth:`encode`.
        """
        check_texts([text])
        steps = self._shared.progress(kind, text, layers, allow_untrained=self.allow_untrained)
        width = Budget.checked(None, dim, None).over(self.budget(kind)).dim
        return ((layer, unit_vectors(vector[None], dim=width)[0]) for layer, vector in steps)

    def budget(self, kind: Kind) -> Budget:
        """What a text of this kind costs if the call says nothing."""
        return Budget(self.layer, self.dim, self.exit if kind == "query" else self.document_exit)

    def with_budget(self, *, layer: int | None = None, dim: int | None = None, exit: str | float | None = None) -> Self:
        """The same model at another size; weights, lock and thread are shared, so it costs nothing.

        Args:
            layer: Depth; None keeps this one's. Given without ``exit`` it means no early exits.
            dim: Width; None keeps this one's.
            exit: Early exits of queries; None keeps this one's.

        Returns:
            Self: A copy.

        Example:
            >>> embeddings = ElasticEmbeddings(model="minilm-elastic")
            >>> len(embeddings.with_budget(layer=3, dim=64).embed_query("What is a budget?"))
            64
        """
        given = Budget.checked(layer, dim, exit)
        documents = given._replace(exit=None).over(self.budget("document"))
        return self.model_copy(update={**given.over(self.budget("query"))._asdict(), "document_exit": documents.exit})

    def _options(self, budget: Budget, show_progress: bool | None) -> dict[str, Any]:
        """What the encoder is called with: nothing that nobody asked for, since not every encoder knows it."""
        asked = {
            "layer": budget.layer,
            "truncate_dim": budget.dim,
            "exit": budget.exit,
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
        """A key for ``CacheBackedEmbeddings`` that differs whenever a vector would: letters, digits, hyphens.

        Queries need a cache of their own, since most models embed a query and a document of the same text differently.
        """
        parts = [self.fingerprint]
        for exit in (self.exit, self.document_exit):
            if exit is not None:
                parts.append(self._shared.exit_fingerprint(exit, allow_untrained=self.allow_untrained))
        # Hashed, because an encoder's own fingerprint may hold any character.
        identity = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]
        exits = "".join(
            f"-{name}"
            for name, exit in (("exit", self.exit), ("document-exit", self.document_exit))
            if exit is not None
        )
        return f"{identity}-layer-{self.layer or 'full'}-dim-{self.dim or 'full'}{exits}"
