"""What an opened export says about itself, under the names of a ``SentenceTransformer``. Runs nothing."""

from st_plugins.identity import with_precision
from st_plugins_export.manifest import Manifest
from st_plugins_export.routes import Routes


class ExportedFacts:
    """The properties of :class:`~st_plugins_export.OnnxEncoder`.

    Args:
        manifest: Of the export, or of the default route.
        routes: Of the export of a Router, else None.
        precision: That of the graphs in the manifest.

    Example:
        >>> from pathlib import Path
        >>> from st_plugins_export.layout import read_manifest
        >>> ExportedFacts(read_manifest(Path("minilm-onnx")), None, "fp32").sizes
        ((6, 384), (3, 128))
    """

    def __init__(self, manifest: Manifest, routes: Routes | None, precision: str) -> None:
        self._manifest = manifest
        self._routes = routes
        self._precision = precision

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """The exported sizes (layer, dim), the full one first."""
        return tuple((size.layer, size.dim) for size in self._manifest.sizes)

    @property
    def exits(self) -> tuple[str, ...]:
        """The exported exit policies."""
        return tuple(exported.name for exported in self._manifest.exits if exported.name is not None)

    @property
    def exit_fingerprints(self) -> dict[str, str | None]:
        """Identity of the vectors of each exit policy; equals ``st_plugins.fingerprint(model, exit=name)``."""
        return {exported.name: exported.fingerprint for exported in self._manifest.exits if exported.name is not None}

    @property
    def prompts(self) -> dict[str, str]:
        """The prompts of the model, by name."""
        return dict(self._manifest.prompts)

    @property
    def fingerprint(self) -> str:
        """Identity of the vectors at full size; equals ``st_plugins.fingerprint(model, precision=...)``."""
        if self._routes is not None:
            return with_precision(self._routes.fingerprint, self._precision)
        return self._manifest.full.fingerprint

    @property
    def max_seq_length(self) -> int | None:
        """Tokens after which a text is cut, special tokens included; None for no limit."""
        return self._manifest.max_seq_length

    def get_embedding_dimension(self) -> int:
        """Width of the vectors at full size."""
        return self._manifest.full.dim
