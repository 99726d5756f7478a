"""Saving and loading of a module behind a network that has weights, and its look at what it is given."""

from typing import Any, Self

from sentence_transformers.sentence_transformer.modules import Module
from torch import Tensor

from st_plugins.errors import ShapeError


class WeightedModule(Module):
    """What every pooling with weights, and every map behind one, writes and reads: ``config.json`` and safetensors.

    Not a module by itself. A subclass sets ``embedding_dimension`` and ``config_keys``, and is built from those keys.
    """

    embedding_dimension: int

    def get_embedding_dimension(self) -> int:
        """``embedding_dimension``: pooling does not change the width."""
        return self.embedding_dimension

    def given_embeddings(self, features: dict[str, Any]) -> Tensor:
        """The ``sentence_embedding`` (B, D) of a batch, for a module that maps it.

        Raises:
            ShapeError: If it is not ``embedding_dimension`` wide.
        """
        of_model = "embedding_dimension=model.get_embedding_dimension()"
        return self._given(features["sentence_embedding"], "a sentence_embedding", "batch", of_model)

    def given_tokens(self, features: dict[str, Any]) -> Tensor:
        """The ``token_embeddings`` (B, T, D) of a batch, or (1, all tokens, D) where flattened, for a pooling.

        Raises:
            ShapeError: If they are not ``embedding_dimension`` wide.
        """
        of_first = "the width of the module before it, mostly embedding_dimension=model[0].get_embedding_dimension()"
        return self._given(features["token_embeddings"], "token_embeddings", "batch, tokens", of_first)

    def _given(self, values: Tensor, name: str, axes: str, width: str) -> Tensor:
        if values.shape[-1] != self.embedding_dimension:
            raise ShapeError(
                f"{type(self).__name__}(embedding_dimension={self.embedding_dimension}) needs {name} of shape "
                f"({axes}, {self.embedding_dimension}), got {tuple(values.shape)}. Build it with {width}."
            )
        return values

    def save(self, output_path: str, *args: Any, safe_serialization: bool = True, **kwargs: Any) -> None:
        """Write ``config.json`` and the weights."""
        self.save_config(output_path)
        self.save_torch_weights(output_path, safe_serialization=safe_serialization)

    @classmethod
    def load(
        cls,
        model_name_or_path: str,
        subfolder: str = "",
        token: bool | str | None = None,
        cache_folder: str | None = None,
        revision: str | None = None,
        local_files_only: bool = False,
        **kwargs: Any,  # what the host tells every module
    ) -> Self:
        """Read what :meth:`save` wrote, from a folder or the hub."""
        place = {
            "subfolder": subfolder,
            "token": token,
            "cache_folder": cache_folder,
            "revision": revision,
            "local_files_only": local_files_only,
        }
        module = cls(**cls.load_config(model_name_or_path, **place))
        return cls.load_torch_weights(model_name_or_path, model=module, **place)
