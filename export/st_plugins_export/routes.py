"""The export of a Router: a folder for each route, itself a whole export, and a manifest that says who goes where.

This file needs neither torch nor numpy.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from st_plugins.errors import InputError, ManifestError
from st_plugins_export.entries import MANIFEST_FILE, expect, expect_keys
from st_plugins_export.layout import FORMAT_VERSION, checked_path, read_entries, sha256_of


@dataclass(frozen=True)
class Routes:
    """What the manifest above the routes says.

    Args:
        routes: SHA-256 of the manifest of each route, by the route's name, which is its folder too.
        tasks: The route of ``"query"`` and of ``"document"``, where the model has one.
        default_route: The route of texts without a task.
        fingerprint: Of the whole model: vectors of its routes may be compared.

    Example:
        >>> Routes({"query": "9f…", "document": "c0…"}, {"query": "query"}, "document", "71…").route_of("query")
        'query'
    """

    routes: dict[str, str]
    tasks: dict[str, str]
    default_route: str
    fingerprint: str

    @classmethod
    def from_json(cls, entries: dict[str, Any]) -> Self:
        """Build one from parsed JSON, checking every type a reader relies on."""
        expect_keys(cls, entries)
        for name in ("routes", "tasks"):
            for value in expect(entries[name], dict, name).values():
                expect(value, str, name)
        expect(entries["default_route"], str, "default_route")
        expect(entries["fingerprint"], str, "fingerprint")
        for name in (*entries["tasks"].values(), entries["default_route"]):
            if name not in entries["routes"]:
                raise ManifestError(f"{MANIFEST_FILE} must list the route {name!r}, and does not. Export again.")
        return cls(**entries)

    @property
    def others(self) -> list[str]:
        """The routes of tasks that are not the default one."""
        return sorted({*self.tasks.values()} - {self.default_route})

    def route_of(self, task: str) -> str:
        """The route of a task.

        Raises:
            InputError: If there is none.
        """
        if task not in self.tasks:
            raise InputError(
                f"There is no route for {task!r}, only {sorted(self.routes)}. Open one: OnnxEncoder(folder / name)."
            )
        return self.tasks[task]


def write_routes(
    folder: Path, names: list[str], *, tasks: dict[str, str], default_route: str, fingerprint: str
) -> Routes:
    """Write the manifest above finished routes.

    Args:
        folder: Holds a finished export for each name.
        names: Of the routes.
        tasks: See :class:`Routes`.
        default_route: See :class:`Routes`.
        fingerprint: See :class:`Routes`.

    Returns:
        Routes: What was written.
    """
    hashes = {name: sha256_of(folder / name / MANIFEST_FILE) for name in names}
    routes = Routes(hashes, tasks, default_route, fingerprint)
    text = json.dumps({"format_version": FORMAT_VERSION, **asdict(routes)}, indent=2, ensure_ascii=False)
    (folder / MANIFEST_FILE).write_text(text + "\n", encoding="utf-8")
    return routes


def read_routes(folder: Path) -> Routes | None:
    """The routes of a folder, or None if it is the export of a model without a Router.

    Raises:
        ManifestError: If its manifest, or that of a route, is missing or was changed.
        UnsafeModelError: If one of them is a link or lies outside the folder.

    Example:
        >>> read_routes(Path("minilm-onnx")) is None
        True
    """
    entries = read_entries(folder)
    if "routes" not in entries:
        return None
    routes = Routes.from_json(entries)
    for name, digest in routes.routes.items():
        path = checked_path(folder, f"{name}/{MANIFEST_FILE}")
        if sha256_of(path) != digest:
            raise ManifestError(
                f"{path} is not the file that was exported (its SHA-256 differs from {folder / MANIFEST_FILE}). "
                "Copy the folder again, or export the model again."
            )
    return routes
