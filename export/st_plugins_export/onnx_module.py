"""An export as the first and only module of a ``SentenceTransformer``. The one part of the runtime that needs torch."""

import json
import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import InputModule, Router
from sentence_transformers.util import load_dir_path

from st_plugins.errors import ExitError, SizeError, UnsupportedModelError
from st_plugins.identity import changed
from st_plugins.modules import Truncation
from st_plugins_export.batches import plan_batches
from st_plugins_export.choices import check_finite, find_exit
from st_plugins_export.entries import MANIFEST_FILE, ExportedExit, ExportedSize
from st_plugins_export.layout import read_verified
from st_plugins_export.opened import OpenedExport
from st_plugins_export.prompt_marks import marked
from st_plugins_export.prompts import resolve_prompt, with_prompt
from st_plugins_export.providers import CPU
from st_plugins_export.routes import read_routes
from st_plugins_export.sessions import EXIT_OUTPUT, OUTPUT, TOKENS_OUTPUT
from st_plugins_export.workers import cores, run_batches

_SETTINGS_FILE = "config_sentence_transformers.json"
_IN_BATCH = " of its batch (sentence-transformers sorts texts by their length)"


class OnnxModule(InputModule):
    """Runs an export inside a ``SentenceTransformer``, so that all that is built on one runs on ONNX: evaluators,
    similarity, prompts, multi-process pools.

    It is the whole pipeline, pooling and normalization included, and no module follows it. Its vectors are those of
    :class:`~st_plugins_export.OnnxEncoder`, which needs no torch and is faster where nothing of sentence-transformers
    is needed. It does not train. ``encode`` takes ``layer`` or ``exit`` of what was exported, and ``truncate_dim`` as
    an elastic model does: cut vectors are unit vectors again, and dims the model was not trained for are refused. At a
    layer whose full width was not exported, vectors have the widest width that was.

    ``save_pretrained`` copies the export into the folder of the model, and keeps ``precision`` and
    ``token_embeddings``; :func:`st_plugins.load` opens it once ``st_plugins_export`` has been imported.

    Args:
        folder: What :func:`st_plugins_export.export_onnx` wrote.
        precision: As for ``OnnxEncoder``.
        providers: As for ``OnnxEncoder``. The device of the ``SentenceTransformer`` changes nothing.
        threads: As for ``OnnxEncoder``.
        token_embeddings: Write these too. For exports with ``layout="tokens"``.

    Reads: ``input_ids``, ``attention_mask`` and ``token_type_ids`` as its own ``preprocess`` makes them; in the call
    ``layer``, ``exit`` and ``allow_untrained``, which lifts the limit on dims.

    Writes: ``sentence_embedding`` (B, dim) float32, ``exit_layer`` (B,), ``trained_dims``; ``token_embeddings``
    (B, T, D) if asked for.

    Raises:
        UnsupportedModelError: If the export has routes or no token embeddings, or the module is to be trained.
        SizeError: If a layer was not exported.
        ExitError: If an exit policy was not exported.
        InputError: If a text cannot be embedded, or this model takes no prompt.

    Example:
        >>> model = OnnxModule.as_sentence_transformer("minilm-onnx")
        >>> model.similarity(model.encode("A text"), model.encode("Another one")).shape
        torch.Size([1, 1])
        >>> model.encode(["A text"], layer=3, truncate_dim=128).shape
        (1, 128)
    """

    save_in_root: bool = False
    config_file_name: str = "onnx_module_config.json"
    # All hashable: sentence-transformers silently drops prompt masking when an encode argument is not.
    forward_kwargs: ClassVar[set[str]] = {"layer", "exit", "allow_untrained"}

    def __init__(
        self,
        folder: str | Path,
        *,
        precision: str = "fp32",
        providers: str | Sequence[str] | None = None,
        threads: int | None = None,
        token_embeddings: bool = False,
    ) -> None:
        super().__init__()
        routes = read_routes(Path(folder))
        if routes is not None:
            raise UnsupportedModelError(
                f"OnnxModule runs an export without routes, {folder} has {sorted(routes.routes)}. Open all of them: "
                "OnnxModule.as_sentence_transformer(folder), or one: "
                f"OnnxModule(folder / {routes.default_route!r})."
            )
        self._options: dict[str, Any] = {"precision": precision, "providers": providers, "threads": threads}
        self._options["token_embeddings"] = token_embeddings
        self._opened = OpenedExport(Path(folder), providers=providers, threads=1)
        self._manifest = self._opened.manifest.at(precision)
        self._workers = threads or (cores() if self._opened.provider.name == CPU else 1)
        self._writes_tokens = token_embeddings
        if token_embeddings and self._manifest.layout != "tokens":
            raise UnsupportedModelError(
                f"token_embeddings needs an export with layout='tokens', {folder} has {self._manifest.layout!r}. "
                "Export the model again: export_onnx(model, folder, layout='tokens')."
            )

    @classmethod
    def as_sentence_transformer(cls, folder: str | Path, **options: Any) -> SentenceTransformer:
        """A whole model, with the prompts, similarity and default width of the one that was exported.

        The export of a Router becomes a Router again, with a module of this class on each route.

        Args:
            folder: As for the class, or the export of a Router.
            **options: As for the class.
        """
        routes = read_routes(Path(folder))
        if routes is None:
            first = main = cls(folder, **options)
        else:
            on_routes = {name: [cls(Path(folder) / name, **options)] for name in routes.routes}
            mappings = {(task, None): name for task, name in routes.tasks.items()}
            first = Router(on_routes, default_route=routes.default_route, route_mappings=mappings)
            (main,) = on_routes[routes.default_route]
        settings = json.loads(read_verified(main._opened.folder, _SETTINGS_FILE, main._manifest))
        kept = {name: settings.get(name) for name in ("similarity_fn_name", "truncate_dim")}
        prompts, default = dict(main._manifest.prompts), main._manifest.default_prompt_name
        return SentenceTransformer(
            modules=[first], device="cpu", prompts=prompts, default_prompt_name=default, **kept
        ).eval()

    @property
    def depth(self) -> int:
        """Number of blocks at full depth."""
        return self._manifest.full.layer

    @property
    def sizes(self) -> list[list[int]]:
        """The exported sizes [layer, dim], and the dims that they may be cut to."""
        pairs = {(size.layer, dim) for size in self._manifest.sizes for dim in (size.dim, *size.trained_dims)}
        return [list(pair) for pair in sorted(pairs)]

    def trained_layers(self) -> list[int]:
        """The exported layers."""
        return sorted({size.layer for size in self._manifest.sizes})

    @property
    def name_or_path(self) -> str:
        """The folder of the export."""
        return str(self._opened.folder)

    @property
    def exported_settings(self) -> dict[str, Any]:
        """Settings of the exported model that its fingerprint covers."""
        return {"prompts": dict(self._manifest.prompts), "default_prompt_name": self._manifest.default_prompt_name}

    def exported_fingerprint(self, layer: int | None = None, dim: int | None = None, exit: str | None = None) -> str:
        """What :func:`st_plugins.fingerprint` said of the exported model, in the precision of this module.

        Args:
            layer: None for the full depth.
            dim: None for what the graph gives. A dim without a graph of its own has an identity of its own.
            exit: A policy, or None.
        """
        layer = self.depth if layer is None else layer
        graph = self._graph(None if exit is not None and layer == self.depth else layer, exit)
        for size in self._manifest.sizes if exit is None else ():
            if (size.layer, size.dim) == (layer, dim):
                return size.fingerprint
        return changed(graph.fingerprint or "", {} if dim is None or dim >= graph.dim else {"dim": dim})

    @property
    def tokenizer(self) -> Any:
        """A ``tokenizers.Tokenizer``; it cuts texts and does not pad."""
        return self._opened.tokenizer

    @property
    def max_seq_length(self) -> int | None:
        """Tokens after which a text is cut, special tokens included; None for no limit."""
        return self._manifest.max_seq_length

    def get_embedding_dimension(self) -> int:
        """Width of the vectors at full size."""
        return self._manifest.full.dim

    def preprocess(
        self,
        inputs: Any,
        prompt: str | None = None,
        *,
        layer: int | None = None,
        exit: str | None = None,
        **kwargs: Any,  # the host's per-call options
    ) -> dict[str, Any]:
        """Token tensors (B, T) of texts; refuses a layer or an exit before anything is computed."""
        self._graph(layer, exit)
        prompt = resolve_prompt(self._manifest, prompt or "", None)
        tensors = self._opened.inputs(self._opened.tokenize(with_prompt(inputs, prompt)))
        features: dict[str, Any] = {name: torch.from_numpy(array) for name, array in tensors.items()}
        return {**features, "prompt_length": self._opened.prompt_length(prompt)}  # as the host's Transformer says it

    def forward(
        self,
        features: dict[str, Any],
        layer: int | None = None,
        exit: str | None = None,
        allow_untrained: bool = False,
        **kwargs: Any,  # what the host adds for other modules
    ) -> dict[str, Any]:
        """Run the graph of ``layer`` or ``exit``. See the class."""
        if self.training and torch.is_grad_enabled():
            raise UnsupportedModelError(
                "OnnxModule runs an export, which has no gradients, and the model is in training mode. Train the "
                "model that was exported; to run this one, call model.eval()."
            )
        graph = self._graph(layer, exit)
        inputs = {name: features[name].cpu().numpy() for name in self._manifest.inputs}
        inputs["attention_mask"] = marked(inputs["attention_mask"], features.get("prompt_length", 0))
        device = features["input_ids"].device
        outputs = {name: torch.from_numpy(array).to(device) for name, array in self._run(inputs, graph).items()}
        trained_dims = None if allow_untrained else graph.trained_dims
        return Truncation()({**features, **outputs, "trained_dims": trained_dims})

    def _run(self, inputs: Mapping[str, np.ndarray], graph: ExportedSize | ExportedExit) -> dict[str, np.ndarray]:
        """The features that a graph gives for B padded texts, computed in small batches without their padding."""
        mask = inputs["attention_mask"]
        names = [OUTPUT]
        found: dict[str, np.ndarray] = {
            OUTPUT: np.empty((len(mask), graph.dim), np.float32),
            EXIT_OUTPUT: np.empty(len(mask), np.int64),
        }
        if isinstance(graph, ExportedExit):
            names.append(EXIT_OUTPUT)
        else:
            found[EXIT_OUTPUT][:] = graph.layer
        if self._writes_tokens:
            names.append(TOKENS_OUTPUT)
            width = self._opened.session(graph).get_outputs()[0].shape[-1]
            found["token_embeddings"] = np.zeros((*mask.shape, width), np.float32)

        def run(rows: np.ndarray) -> None:  # (b,), of the B
            columns = np.flatnonzero(mask[rows].any(axis=0))
            cut = {name: np.ascontiguousarray(array[rows][:, columns]) for name, array in inputs.items()}
            embeddings, *others = self._opened.run_tokens(names, cut, graph)
            check_finite(embeddings, rows, _IN_BATCH)
            found[OUTPUT][rows] = embeddings
            if EXIT_OUTPUT in names:
                found[EXIT_OUTPUT][rows] = others[0]
            if self._writes_tokens:
                found["token_embeddings"][np.ix_(rows, columns)] = others[-1]

        batches = plan_batches((mask > 0).sum(axis=1), self._opened.provider.token_budget, None)
        run_batches(batches, run, lambda done: None, workers=self._workers, ahead=len(mask))
        return found

    def _graph(self, layer: int | None, exit: str | None) -> ExportedSize | ExportedExit:
        if exit is not None and layer is not None:
            raise ExitError(f"exit decides the layer of each text: leave layer out, got {exit=} and {layer=}.")
        if exit is not None:
            return find_exit(self._manifest, exit, None)[0]
        layer = self.depth if layer is None else layer
        at_layer = [size for size in self._manifest.sizes if size.layer == layer]
        if not at_layer:
            raise SizeError(
                f"layer must be one of the exported ones, {self.trained_layers()}, got {layer!r}. Export it as well: "
                "export_onnx(model, folder, sizes=[(layer, dim)])."
            )
        return max(at_layer, key=lambda size: size.dim)

    def save(self, output_path: str, *args: Any, safe_serialization: bool = True, **kwargs: Any) -> None:
        """Copy the export, unless it lies there already, and say what of it this is. Opening compares all files."""
        target = Path(output_path)
        for name in (*self._manifest.files, MANIFEST_FILE) if target.resolve() != self._opened.folder.resolve() else ():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self._opened.folder / name, target / name)
        self.save_config(output_path)

    def get_config_dict(self) -> dict[str, Any]:
        """What changes the vectors, or which there are; not where they are computed."""
        return {name: self._options[name] for name in ("precision", "token_embeddings")}

    @classmethod
    def load(cls, model_name_or_path: str, subfolder: str = "", **kwargs: Any) -> "OnnxModule":
        """Open what :meth:`save` wrote. ``model_kwargs={"provider": "cuda"}`` chooses where to run."""
        places = {
            key: kwargs[key] for key in ("token", "cache_folder", "revision", "local_files_only") if key in kwargs
        }
        folder = load_dir_path(model_name_or_path, subfolder=subfolder, **places)
        config = cls.load_config(model_name_or_path, subfolder=subfolder, **places)
        return cls(folder, providers=(kwargs.get("model_kwargs") or {}).get("provider"), **config)

    def __reduce__(self) -> Any:
        """Copies, also those in other processes, open the folder anew."""
        return partial(type(self), **self._options), (self._opened.folder,), {"training": self.training}
