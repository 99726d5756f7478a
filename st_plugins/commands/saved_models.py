"""Writes a model into a folder that appears whole or not at all."""

import shutil
from pathlib import Path

from sentence_transformers import SentenceTransformer

from st_plugins.errors import InputError
from st_plugins.whole_writes import whole_folder


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
    with whole_folder(folder) as unfinished:
        model.save_pretrained(str(unfinished))
        check_new_folder(folder)  # somebody may have put a file there


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
    if not Path(folder).is_dir():
        raise InputError(f"{folder} must be a folder to be written to. Name one with --output.")
    with whole_folder(folder) as unfinished:
        shutil.copytree(folder, unfinished, dirs_exist_ok=True)
        model.save_pretrained(str(unfinished))
