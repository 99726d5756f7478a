"""Writes a folder beside its target and moves it there when it is finished, so that nobody sees half of one."""

import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from st_plugins.errors import ExportError, ManifestError, UnsafeModelError
from st_plugins_export.layout import MANIFEST_FILE, file_names, read_manifest
from st_plugins_export.routes import read_routes


@contextmanager
def staged_folder(target: Path) -> Iterator[Path]:
    """A new folder that takes the place of ``target`` when the block ends well, and vanishes when it does not.

    Args:
        target: May be missing, empty, or an earlier export without foreign files.

    Yields:
        Path: A sibling of the target, on the same file system.

    Raises:
        ExportError: If the target holds anything else, or something cannot be written.
    """
    target = target.resolve()
    _check_replaceable(target)
    staged = _sibling(target, "new")
    try:
        staged.mkdir(parents=True)
        yield staged
        _check_replaceable(target)  # an export takes a while: somebody may have put a file there
        _put_in_place(staged, target)
    except OSError as error:  # no room, no permission
        raise ExportError(
            f"{target} could not be written ({error}); it is as it was before. Make room, or name another folder."
        ) from error
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def _put_in_place(staged: Path, target: Path) -> None:
    if not target.exists():
        staged.rename(target)
        return
    replaced = _sibling(target, "old")
    target.rename(replaced)
    try:
        staged.rename(target)
    except OSError:
        replaced.rename(target)
        raise
    shutil.rmtree(replaced, ignore_errors=True)


def _sibling(target: Path, role: str) -> Path:
    return target.with_name(f".{target.name}-{secrets.token_hex(4)}-{role}")


def _check_replaceable(target: Path) -> None:
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    try:
        known = _known_files(target)
    except (ManifestError, UnsafeModelError):
        raise ExportError(
            f"{target} must be missing, empty or an earlier export, and it holds something else. Name another folder."
        ) from None
    # Python leaves compiled files beside the code in serving/ when a server runs it.
    foreign = sorted(name for name in set(file_names(target)) - known if "__pycache__" not in name)
    if foreign:
        raise ExportError(
            f"{target} is an earlier export, but holds {foreign[0]!r}, which the export did not write and replacing "
            "it would delete. Move that file away, or name another folder."
        )


def _known_files(target: Path) -> set[str]:
    routes = read_routes(target)
    if routes is None:
        return {*read_manifest(target).files, MANIFEST_FILE}
    inside = {f"{name}/{file}" for name in routes.routes for file in _known_files(target / name)}
    return {*inside, MANIFEST_FILE}
