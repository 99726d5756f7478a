"""An elastic model at one size, as a model that ``mteb.evaluate`` accepts.

It chooses no tasks and keeps no results, and mteb is not imported before it is used.
"""

from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from sentence_transformers import SentenceTransformer

from st_plugins.errors import MissingExtraError, SizeError
from st_plugins.fingerprints import fingerprint
from st_plugins.first_modules import layered_module
from st_plugins.located_errors import encode_located
from st_plugins.modules import ElasticTransformer
from st_plugins.views import view
from st_plugins.width import check_dim, embedding_width


class MtebEncoder:
    """One size (layer, dim) of an elastic model or of its export, or one exit policy, for every task of mteb.

    mteb is the Massive Text Embedding Benchmark. The encoder is given to it as any other model is::

        encoder = MtebEncoder(model, layer=3, dim=128)
        mteb.evaluate(encoder, mteb.get_tasks(tasks=["STSBenchmark", "SciFact"]))

    Prompts are chosen as mteb chooses them for other sentence-transformers models: by task, type of task, or query and
    document. The name given to mteb ends in the size and the revision is the fingerprint, so that its cache of results
    keeps sizes and weights apart. To run a task that mteb cannot download, see mteb's ``AbsTask``.

    Args:
        model: Elastic, or an export of one (``OnnxModule``); left as it is.
        layer: In [1, L]; None for the full depth. Of an export, a layer it holds.
        dim: In [1, D]; None for the model's own width.
        query_layer: Depth of the queries, in tasks that tell them from documents; None for ``layer``. In other tasks
            all texts run to ``layer``.
        exit: A policy of the model, or a cosine, by which each text leaves at a layer of its own; ``layer`` and
            ``query_layer`` are then the deepest that texts and queries may reach. None runs all to the end.
        allow_untrained: Whether sizes the model was not trained for may be evaluated.
        name: What results are filed under, "organization/model"; None takes it from where the model was loaded. The
            organization is "local" where there is none, and the size is appended.

    Raises:
        MissingExtraError: If mteb is not installed.
        UnsupportedModelError: If the model is not elastic.
        SizeError: If the size does not exist, or was not exported.
        ExitError: If there is no such policy, or an export shall leave by it at fewer layers than it has.
        UntrainedSizeError: If it was not trained, or ``exit`` is a cosine and no layer was. The model encodes one word
            to find out.

    References:
        MTEB, https://arxiv.org/abs/2210.07316. Its ``EncoderProtocol``: https://embeddings-benchmark.github.io/mteb.

    Example:
        >>> encoder = MtebEncoder(st_plugins.load("minilm-elastic"), layer=6, dim=128, query_layer=3)
        >>> encoder.mteb_model_meta.name
        'local/minilm-elastic@6x128-query3'
        >>> encoder.mteb_model_meta.embed_dim
        128
    """

    def __init__(
        self,
        model: SentenceTransformer,
        layer: int | None = None,
        dim: int | None = None,
        query_layer: int | None = None,
        exit: str | float | None = None,
        *,
        allow_untrained: bool = False,
        name: str | None = None,
    ) -> None:
        _mteb()
        first = layered_module(model, "an MtebEncoder")
        if dim is not None:
            check_dim(dim, embedding_width(model.children()))
        self.model = model
        self._first = first
        self.layer = first.depth if layer is None else layer
        self.dim = model.get_embedding_dimension() if dim is None else dim
        self.query_layer = self.layer if query_layer is None else query_layer
        if exit is not None and self._is_torch:
            first.exit_policy(exit)
        self.exit = exit
        self.allow_untrained = allow_untrained
        network = first.model if self._is_torch else first
        self.name = _origin(network.name_or_path) if name is None else name if "/" in name else f"local/{name}"
        for method, depth in ((model.encode_query, self.query_layer), (model.encode_document, self.layer)):
            given = method("word", **self._size(depth)).shape[-1]
            if given != self.dim:
                raise SizeError(
                    f"The model must give vectors of the same width at every layer in use, got {given} at layer "
                    f"{depth} and dim={self.dim}. Give a smaller dim, or export the layer at that width."
                )

    def encode(
        self,
        inputs: Any,
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        prompt_type: str | None = None,
        **arguments: Any,  # mteb's encode_kwargs are the host's
    ) -> Any:
        """Embeddings of the texts of one side of a task; mteb calls it.

        Args:
            inputs: A ``DataLoader`` whose batches have the key ``text``.
            task_metadata: Of the task; its name and type choose the prompt.
            hf_split: Changes nothing.
            hf_subset: Changes nothing.
            prompt_type: "query", "document" or None.
            **arguments: For ``model.encode``, as ``batch_size``.

        Returns:
            numpy.ndarray: (N, dim), unit vectors where the model gives unit vectors or the width is cut.

        Raises:
            InputError: If a text cannot be embedded, see :class:`~st_plugins.modules.Truncation`. Names its position.
        """
        texts = [text for batch in inputs for text in batch["text"]]
        prompt = _mteb().models.abs_encoder.get_prompt(self.model.prompts, task_metadata, prompt_type)
        method = {"query": self.model.encode_query, "document": self.model.encode_document}.get(
            prompt_type or "", self.model.encode
        )
        depth = self.query_layer if prompt_type == "query" else self.layer
        return encode_located(partial(method, prompt=prompt, **self._size(depth), **arguments), texts)

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Any:
        """The model's similarity, (N, dim) and (M, dim) to (N, M)."""
        return self.model.similarity(embeddings1, embeddings2)

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Any:
        """The model's similarity, (N, dim) and (N, dim) to (N,)."""
        return self.model.similarity_pairwise(embeddings1, embeddings2)

    @property
    def mteb_model_meta(self) -> Any:
        """What mteb writes beside the results: a ``ModelMeta`` of the size, of the weights as they are now."""
        meta = _mteb().models.model_meta
        size = f"{self.layer}x{self.dim}"
        if self.query_layer != self.layer:
            size += f"-query{self.query_layer}"
        if self.exit is not None:
            size += f"-exit-{self.exit}"
        return meta.ModelMeta.create_empty(
            {
                "name": f"{self.name}@{size}",
                "revision": fingerprint(self.model, layer=self.layer, dim=self.dim, exit=self.exit)[:16],
                "n_parameters": self._parameters(),
                "max_tokens": self.model.max_seq_length,
                "embed_dim": self.dim,
                "similarity_fn_name": meta.ScoringFunction(self.model.similarity_fn_name),
                "framework": ["Sentence Transformers", "PyTorch" if self._is_torch else "ONNX"],
            }
        )

    @property
    def _is_torch(self) -> bool:
        return isinstance(self._first, ElasticTransformer)

    def _size(self, depth: int) -> dict[str, Any]:
        size = {"truncate_dim": self.dim, "allow_untrained": self.allow_untrained}
        if self.exit is None:
            return size | {"layer": depth}
        # An export has a graph for each policy, which reaches the full depth.
        return size | {"exit": self.exit} | ({} if depth == self._first.depth else {"layer": depth})

    def _parameters(self) -> int | None:
        """Numbers in the weights; unknown of an export."""
        if not self._is_torch:
            return None
        _, *others = self.model.children()
        modules = (view(self._first.model, max(self.layer, self.query_layer)), *others)
        return sum(parameter.numel() for module in modules for parameter in module.parameters())


def _mteb() -> Any:
    """The package, when first needed: its import takes seconds."""
    try:
        return import_module("mteb")
    except ModuleNotFoundError:
        raise MissingExtraError("mteb", "mteb") from None


def _origin(source: str) -> str:
    """A name of the hub as it is; of a folder its last part: where it lies is nobody's business."""
    is_hub_name = source.count("/") == 1 and not source.startswith((".", "/")) and not Path(source).exists()
    return source if is_hub_name else f"local/{Path(source).name or 'model'}"
