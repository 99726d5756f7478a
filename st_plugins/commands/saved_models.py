"""Writes a model into a folder that appears whole or not at all."""

import secrets
import shutil
from pathlib import Path

from sentence_transformers import SentenceTransformer

from st_plugins.errors import InputError


def check_new_folder(folder: str) -> None:
    """Refuse a folder that holds something, before hours of work that would end there.

    Raises:
        InputError: If it is not missing or empty.

    Example:
        >>> check_new_folder("not-there-yet")
    """
    target = Path(folder)
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise InputError(f"{folder} must be a new folder, and it holds something. Name another one.")


def save_new(model: SentenceTransformer, folder: str) -> None:
    """Save into a folder that is missing or empty.

    Args:
        model: Any.
        folder: Where to.

    Raises:
        InputError: If the folder holds something.

    Example:
        >>> save_new(st_plugins.load("minilm-elastic"), "a-copy")
    """
    check_new_folder(folder)
    target = Path(folder).resolve()
    staged = _sibling(target, "new")
    try:
        model.save_pretrained(str(staged))
        if target.exists():
            target.rmdir()
        staged.rename(target)
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def save_over(model: SentenceTransformer, folder: str) -> None:
    """Save into the folder that the model was loaded from; files of yours in it stay.

    Args:
        model: With the files of before, changed inside.
        folder: Its folder.

    Raises:
        InputError: If it is no folder, as the id of a model on the hub.

    Example:
        >>> save_new(st_plugins.load("minilm-elastic"), "mine")
        >>> save_over(st_plugins.load("mine"), "mine")
    """
    target = Path(folder).resolve()
    if not target.is_dir():
        raise InputError(f"{folder} must be a folder to be written to. Name one with --output.")
    staged, replaced = _sibling(target, "new"), _sibling(target, "old")
    try:
        shutil.copytree(target, staged)
        model.save_pretrained(str(staged))
        target.rename(replaced)
        staged.rename(target)
    except OSError:
        if not target.exists():
            replaced.rename(target)
        raise
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    shutil.rmtree(replaced, ignore_errors=True)


def _sibling(target: Path, role: str) -> Path:
    return target.with_name(f".{target.name}-{secrets.token_hex(4)}-{role}")
