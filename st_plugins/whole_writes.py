"""Writes files and folders that appear whole or not at all. What is in them is the caller's; nothing is locked.

Imports nothing but the standard library.
"""

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Ends the names of files that are being written: what a killed process leaves behind.
UNFINISHED = ".unfinished"


@contextmanager
def whole_file(file: str | Path) -> Iterator[Path]:
    """A path beside ``file`` to write to, which takes its place when the block ends well, and is gone if it does not.

    Args:
        file: May exist; its folder must.

    Yields:
        Path: On the same file system, hidden, another one in every call.

    Raises:
        OSError: If it cannot be written or moved. What was there before is there still.

    Example:
        >>> with whole_file("numbers.txt") as unfinished:
        ...     _ = unfinished.write_text("1 2 3")
        >>> Path("numbers.txt").read_text()
        '1 2 3'
    """
    file = Path(file)
    unfinished = file.with_name(f".{file.name}.{secrets.token_hex(4)}{UNFINISHED}")
    try:
        yield unfinished
        os.replace(unfinished, file)
    finally:
        unfinished.unlink(missing_ok=True)


@contextmanager
def whole_folder(target: str | Path) -> Iterator[Path]:
    """A new folder beside ``target``, which takes its place when the block ends well, and is gone if it does not.

    Between two renames there is a moment without either; whoever opens the folder right then finds none.

    Args:
        target: May be missing, and its parents too; whatever it holds is deleted in the end.

    Yields:
        Path: An empty folder on the same file system.

    Raises:
        OSError: If it cannot be made or moved. What was there before is there still.

    Example:
        >>> with whole_folder("two-files") as unfinished:
        ...     for name in ("a", "b"):
        ...         _ = (unfinished / name).write_text(name)
        >>> sorted(file.name for file in Path("two-files").iterdir())
        ['a', 'b']
    """
    target = Path(target).resolve()
    mark = secrets.token_hex(4)
    unfinished, replaced = (target.with_name(f".{target.name}-{mark}-{role}") for role in ("new", "old"))
    try:
        unfinished.mkdir(parents=True)
        yield unfinished
        try:
            if target.exists():
                target.rename(replaced)
            unfinished.rename(target)
        except BaseException:
            if replaced.exists() and not target.exists():
                replaced.rename(target)
            raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    shutil.rmtree(replaced, ignore_errors=True)
