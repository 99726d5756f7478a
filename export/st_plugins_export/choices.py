"""Which graph of an export serves a call, and how wide its vectors become. Opens nothing."""

from collections.abc import Sequence

import numpy as np

from st_plugins.counts import is_count
from st_plugins.errors import ExitError, InputError, NonFiniteError, SizeError
from st_plugins_export.entries import ExportedExit, ExportedSize
from st_plugins_export.manifest import Manifest


def find_size(manifest: Manifest, layer: int | None, dim: int | None) -> tuple[ExportedSize, int]:
    """The graph of a size, and the width to cut its vectors to.

    Args:
        manifest: Of the export.
        layer: None for the full depth.
        dim: None for the full width.

    Raises:
        SizeError: If the size was not exported. Lists those that were.
    """
    full = manifest.full
    layer = full.layer if layer is None else layer
    dim = full.dim if dim is None else dim
    at_layer = [size for size in manifest.sizes if size.layer == layer]
    for size in at_layer:
        if size.dim == dim:
            return size, dim
    for size in sorted(at_layer, key=lambda size: size.dim):
        if dim in size.trained_dims and dim < size.dim:
            return size, dim
    available = sorted({(size.layer, width) for size in manifest.sizes for width in (size.dim, *size.trained_dims)})
    raise SizeError(
        f"The export has these sizes (layer, dim): {available}, got layer={layer}, truncate_dim={dim}. "
        "Export the size as well: export_onnx(model, folder, sizes=[(layer, dim)])."
    )


def find_exit(manifest: Manifest, name: str | None, dim: int | None) -> tuple[ExportedExit, int]:
    """The graph of an exit policy, and the width to cut its vectors to.

    Args:
        manifest: Of the export.
        name: The policy; None for the graph that is told where each text leaves.
        dim: None for the full width.

    Raises:
        ExitError: If it was not exported. Lists those that were.
        SizeError: If the model was not trained for the dim at every layer of the policy.
    """
    for exported in manifest.exits:
        if exported.name == name:
            dims = sorted({exported.dim, *exported.trained_dims})
            if dim is None or dim in dims:
                return exported, exported.dim if dim is None else dim
            raise SizeError(
                f"Texts that leave at layers {list(exported.layers)} have these dims: {dims}, got truncate_dim={dim}. "
                "The model must be trained for a dim at every one of these layers."
            )
    if name is None:
        raise ExitError(
            "layers need a graph that is told where each text leaves, and this export has none. "
            "Write it: export_onnx(model, folder, layer_per_text=True)."
        )
    names = [exported.name for exported in manifest.exits if exported.name is not None]
    raise ExitError(
        f"exit must be one of the exported policies, {names}, got {name!r}. "
        "Export it as well: export_onnx(model, folder, exits=[name])."
    )


def checked_layers(layers: Sequence[int], exported: ExportedExit, count: int) -> np.ndarray:
    """The layers of N texts as (N,) int64.

    Raises:
        InputError: If there is not one for each text.
        SizeError: If one is no exit of the graph.
    """
    if len(layers) != count:
        raise InputError(f"layers must hold one layer for each of the {count} texts, got {len(layers)}.")
    for position, layer in enumerate(layers):
        if layer not in exported.layers:
            raise SizeError(
                f"layers must be among those of the export, {list(exported.layers)}, got {layer!r} at position "
                f"{position}. Train the model for it, and export it again."
            )
    return np.asarray(layers, dtype=np.int64)


def check_positive(name: str, value: int) -> None:
    """Raise a ValueError unless ``value`` is a positive integer."""
    if not is_count(value):
        raise ValueError(f"{name} must be a positive integer, got {value!r}.")


def cut(embeddings: np.ndarray, dim: int) -> np.ndarray:
    """First ``dim`` coordinates of each row of (B, D), as unit vectors (B, dim); a zero row stays zero."""
    embeddings = embeddings[:, :dim]
    return embeddings / np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-12)


def check_finite(embeddings: np.ndarray, places: np.ndarray, within: str = "") -> None:
    """Refuse vectors (B, D), of the texts at ``places`` (B,), that hold NaN or infinity.

    Args:
        embeddings: (B, D).
        places: (B,), of the texts in what the caller was given.
        within: What that was, if not all texts of a call.

    Raises:
        NonFiniteError: With the first position.
    """
    is_finite = np.isfinite(embeddings).all(axis=1)
    if not is_finite.all():
        raise NonFiniteError(
            f"The model gives NaN or infinity for the text at position {places[~is_finite].min()}{within}. Leave it "
            "out, and check the model's weights: one bad number in them is enough."
        )
