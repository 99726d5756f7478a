"""Takes the routes of a Router apart, so that each is exported and checked as a model of its own.

A model that rounds its documents and not its queries (``float_queries=True``) has such routes, too.
"""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Router

import st_plugins
from st_plugins.errors import ManifestError, UnsupportedModelError
from st_plugins.model_settings import with_settings_of
from st_plugins_export.report import ExportReport
from st_plugins_export.rounding import has_float_queries, models_by_task
from st_plugins_export.routes import read_routes, write_routes
from st_plugins_export.staging import staged_folder
from st_plugins_export.support import check_exportable
from st_plugins_export.tried import joined

_TASKS = ("query", "document")


def has_routes(model: SentenceTransformer) -> bool:
    """Whether texts of different tasks need graphs of their own."""
    return isinstance(model[0], Router) or has_float_queries(model)


def export_routes(
    model: SentenceTransformer, target: Path, export: Callable[[SentenceTransformer, Path], ExportReport]
) -> ExportReport:
    """Export each route into a folder of its own, and write the manifest above them.

    Args:
        model: See :func:`has_routes`; left as it is.
        target: As in :func:`~st_plugins_export.export_onnx`.
        export: Exports one model into one folder.

    Returns:
        ExportReport: The graphs of all routes.

    Raises:
        UnsupportedModelError: If a route cannot be exported, or texts without a task have no route.
    """
    routes = _models(model)
    tasks = _tasks(model)
    for name, route in routes.items():
        try:
            check_exportable(route)
        except UnsupportedModelError as error:
            raise UnsupportedModelError(f"The route {name!r} cannot be exported. {error}") from None
    with staged_folder(target) as staged:
        reports = {name: export(route, staged / name) for name, route in routes.items()}
        identity = st_plugins.fingerprint(model)
        default_route = tasks.pop(None)
        named = {task: route for task, route in tasks.items() if task is not None}
        write_routes(staged, list(routes), tasks=named, default_route=default_route, fingerprint=identity)
    return _joined(target, reports)


def check_routes(
    model: SentenceTransformer, folder: Path, check: Callable[[SentenceTransformer, Path], ExportReport]
) -> ExportReport:
    """Check each route.

    Args:
        model: See :func:`has_routes`.
        folder: Its export.
        check: Checks one model against one folder.

    Returns:
        ExportReport: The graphs of all routes.

    Raises:
        ManifestError: If the folder has other routes.
    """
    models = _models(model)
    routes = read_routes(folder)
    found = [] if routes is None else list(routes.routes)
    if set(found) != set(models):
        raise ManifestError(f"{folder} must hold the routes {list(models)}, and holds {found}. Export the model again.")
    return _joined(folder, {name: check(route, folder / name) for name, route in models.items()})


def _models(model: SentenceTransformer) -> dict[str, SentenceTransformer]:
    """One model for each route, sharing all modules."""
    if not isinstance(model[0], Router):
        return models_by_task(model)
    router, *others = model.children()
    models = {}
    for name, route in router.sub_modules.items():
        if not re.fullmatch(r"[\w-]+", name):
            raise UnsupportedModelError(
                "The name of a route becomes the name of a folder, so it may have letters, digits, '_' and '-', got "
                f"{name!r}. Build the Router with another one."
            )
        modules = {str(place): module for place, module in enumerate([*route, *others])}
        models[name] = with_settings_of(model, modules)
    return models


def _tasks(model: SentenceTransformer) -> dict[str | None, str]:
    """The route of texts with and without a task, as the Router, or the rounding, itself decides."""
    router = model[0]
    if not isinstance(router, Router):
        return {None: "document", "query": "query", "document": "document"}
    try:
        tasks: dict[str | None, str] = {None: router._resolve_route(task=None, modality="text")}
    except ValueError:
        raise UnsupportedModelError(
            f"A Router must say where texts without a task go, to one of {list(router.sub_modules)}, and does not. "
            "Set model[0].default_route."
        ) from None
    for task in _TASKS:
        try:
            tasks[task] = router._resolve_route(task=task, modality="text")
        except ValueError:
            continue  # then encoding such a text is an error, as it is with the Router
    return tasks


def _joined(folder: Path, reports: dict[str, ExportReport]) -> ExportReport:
    sizes = [replace(row, file=f"{name}/{row.file}") for name, report in reports.items() for row in report.sizes]
    exits = [replace(row, file=f"{name}/{row.file}") for name, report in reports.items() for row in report.exits]
    tolerance = max(report.tolerance for report in reports.values())
    tried = joined(report.tried for report in reports.values() if report.tried is not None)
    return ExportReport(folder, tolerance, tuple(sizes), tuple(exits), tried)
