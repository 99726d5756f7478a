"""The exceptions of the three packages.

    StPluginsError
    ├── ShapeError(ValueError)             a tensor does not have the shape a module needs
    ├── SizeError(ValueError)              a layer or dim that does not exist
    │   └── UntrainedSizeError             ... or exists, but the model was never trained for it
    ├── UnsupportedModelError(ValueError)  an architecture or pipeline this package cannot treat
    ├── LossError(ValueError)              a loss was put together, or fed, in a way that cannot train
    ├── ExitError(ValueError)              a dynamic exit that cannot be taken, or not be calibrated
    ├── PrecisionError(ValueError)         a precision that does not exist, or was not exported
    ├── UnsafeModelError(ValueError)       a model folder holds something the loader does not open
    ├── ExportError(RuntimeError)          an ONNX export failed; nothing was written
    │   └── ParityError                    ... because the graph and the model disagree
    ├── ManifestError(ValueError)          an exported folder is incomplete or was changed
    ├── ProviderError(ValueError)          hardware for ONNX that is not installed, or does not start
    ├── InputError(ValueError)             texts, files or options that cannot be used
    │   └── NonFiniteError                 ... because NaN or infinity would come out
    ├── BulkError(ValueError)              a bulk job that cannot start, or go on where it stopped
    ├── IndexMismatchError(ValueError)     an index and an embedding model that do not belong together
    └── MissingExtraError(ImportError)     an optional dependency is not installed

Catch one family, or all of them::

    try:
        model.encode(texts, layer=2)
    except st_plugins.errors.UntrainedSizeError as error:
        print(error)

Beside them stand FileNotFoundError and, for an argument of the exporter or of the LangChain classes that is of another
type or choice than there is, Python's own TypeError and ValueError.

This file imports nothing, so that the ONNX runtime can use it without torch.
"""


class StPluginsError(Exception):
    """Base class of everything below."""


class ShapeError(StPluginsError, ValueError):
    """A tensor does not have the shape a module needs."""


class SizeError(StPluginsError, ValueError):
    """A layer or a dim that the model does not have."""


class UntrainedSizeError(SizeError):
    """A size the model has but was not trained for; ``allow_untrained=True`` runs it all the same."""


class UnsupportedModelError(StPluginsError, ValueError):
    """An architecture or pipeline that cannot be treated; the message names it."""


class LossError(StPluginsError, ValueError):
    """A loss was put together, or fed, in a way that cannot train."""


class ExitError(StPluginsError, ValueError):
    """A dynamic exit that cannot be taken, or a policy that cannot be calibrated."""


class PrecisionError(StPluginsError, ValueError):
    """A precision that does not exist, or that an export does not have."""


class UnsafeModelError(StPluginsError, ValueError):
    """A model folder holds something the loader does not open: a foreign class, a pickle, a path out of the folder."""


class ExportError(StPluginsError, RuntimeError):
    """An ONNX export failed. The target folder is as it was before."""


class ParityError(ExportError):
    """The exported graph and the model it came from give different vectors."""


class ManifestError(StPluginsError, ValueError):
    """An exported folder is incomplete, or was changed after the export."""


class ProviderError(StPluginsError, ValueError):
    """An execution provider of ONNX Runtime that is not installed, or does not start; nothing else takes its place."""


class InputError(StPluginsError, ValueError):
    """Texts that cannot be embedded, with their position; files and options that cannot be used."""


class NonFiniteError(InputError):
    """A vector with NaN or infinity, which no encoder hands out. The message names the text, or its row in a batch."""


class BulkError(StPluginsError, ValueError):
    """A bulk job that cannot start, or cannot go on where another one stopped. What was finished is kept."""


class IndexMismatchError(StPluginsError, ValueError):
    """An index was built with another model, size or prompt than the one it is opened with."""


class MissingExtraError(StPluginsError, ImportError):
    """An optional dependency is not installed.

    Args:
        package: What could not be imported.
        extra: The extra of ``st-plugins`` that brings it.

    Example:
        >>> str(MissingExtraError("onnxruntime", "onnx"))
        "This needs the package 'onnxruntime', which is not installed. Run: pip install 'st-plugins[onnx]'"
    """

    def __init__(self, package: str, extra: str) -> None:
        self.package = package
        self.extra = extra
        super().__init__(
            f"This needs the package {package!r}, which is not installed. Run: pip install 'st-plugins[{extra}]'"
        )
