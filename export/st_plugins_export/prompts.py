"""Prompts: which one goes in front of the texts of a call, as in sentence-transformers. Pure Python."""

from collections.abc import Sequence
from typing import Any

from st_plugins.errors import InputError
from st_plugins.usual_prompts import usual_name
from st_plugins_export.manifest import Manifest


def resolve_prompt(manifest: Manifest, prompt: str | None, prompt_name: str | None) -> str:
    """The prompt of a call.

    Args:
        manifest: Of the export.
        prompt: Goes before everything.
        prompt_name: Goes before the default of the model.

    Returns:
        str: Perhaps empty.

    Raises:
        InputError: If there is no such prompt, or the export, an early one, can have none.
    """
    prompts = manifest.prompts
    if prompt is None:
        prompt_name = manifest.default_prompt_name if prompt_name is None else prompt_name
        if prompt_name is not None and prompt_name not in prompts:
            raise InputError(f"prompt_name must be one of the model's prompts, {list(prompts)}, got {prompt_name!r}.")
        prompt = "" if prompt_name is None else prompts[prompt_name]
    if prompt and not manifest.include_prompt and manifest.special_ids is None:
        raise InputError(
            "This model leaves the prompt out of its pooling, which graphs of early releases cannot do, so no prompt "
            f"can be used, got {prompt!r}. Export the model again."
        )
    return prompt


def usual_prompt(manifest: Manifest, task: str, prompt: str | None, prompt_name: str | None) -> str | None:
    """``prompt_name``, or where the call names no prompt at all, the one that "query" or "document" usually takes."""
    return usual_name(manifest.prompts, task) if prompt is None and prompt_name is None else prompt_name


def with_prompt(texts: str | Sequence[Any], prefix: str) -> list[str]:
    """The texts, or the single one, with the prompt in front.

    Raises:
        TypeError: If something is not a string. Names its position.
    """
    texts = [texts] if isinstance(texts, str) else list(texts)
    for position, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"Every text must be a string, got {type(text).__name__} at position {position}.")
    return [prefix + text for text in texts] if prefix else texts
