"""One sentence-transformers model, every size.

Names are loaded when they are first used, so ``import st_plugins`` costs nothing and the ONNX runtime can share
:mod:`st_plugins.errors` without importing torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from st_plugins import (
        bulk,
        compression,
        errors,
        evaluation,
        exits,
        long_texts,
        losses,
        modules,
        multi_vector,
        training,
    )
    from st_plugins.alignment import align_layers
    from st_plugins.bidirectional_attention import bidirectional
    from st_plugins.elastic_model import bake, elastic
    from st_plugins.fingerprints import fingerprint
    from st_plugins.index_upgrade import adapt_to_index
    from st_plugins.loading import load
    from st_plugins.nv_embed import from_nv_embed
    from st_plugins.score_fusion import fuse_scores

__version__ = "0.1.0"

__all__ = [
    "adapt_to_index",
    "align_layers",
    "bake",
    "bidirectional",
    "bulk",
    "compression",
    "elastic",
    "errors",
    "evaluation",
    "exits",
    "fingerprint",
    "from_nv_embed",
    "fuse_scores",
    "load",
    "long_texts",
    "losses",
    "modules",
    "multi_vector",
    "training",
]

# A function never shares its name with a file of this package: importing the file would hide the function.
_HOME = {
    "adapt_to_index": "st_plugins.index_upgrade",
    "align_layers": "st_plugins.alignment",
    "bake": "st_plugins.elastic_model",
    "bidirectional": "st_plugins.bidirectional_attention",
    "elastic": "st_plugins.elastic_model",
    "fingerprint": "st_plugins.fingerprints",
    "from_nv_embed": "st_plugins.nv_embed",
    "fuse_scores": "st_plugins.score_fusion",
    "load": "st_plugins.loading",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name) if name in _HOME else import_module(f"{__name__}.{name}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
