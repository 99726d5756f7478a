"""The folder of an export: which one may be replaced, and that nobody sees half of one."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from st_plugins.errors import ExportError, ManifestError, UnsafeModelError
from st_plugins.whole_writes import whole_folder
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
    try:
        with whole_folder(target) as staged:
            yield staged
            _check_replaceable(target)  # an export takes a while: somebody may have put a file there
    except OSError as error:  # no room, no permission
        raise ExportError(
            f"{target} could not be written ({error}); it is as it was before. Make room, or name another folder."
        ) from error


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
