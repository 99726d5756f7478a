"""``st-plugins doctor``: what is installed, what is missing, and the command that adds it."""

import json
import os
import platform
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, metadata, version

import typer
from packaging.requirements import Requirement

import st_plugins
from st_plugins.commands.option_types import Json

HELP = """
Say what is installed and on what it runs, what is missing, and the command that adds it. Exits with 1 if something that
is installed does not fit.
"""
_PACKAGE = "st-plugins"


@dataclass(frozen=True)
class Found:
    """A package that this one wants.

    Args:
        extra: For which extra; "" for all uses.
        package: Its name.
        wanted: Its versions.
        installed: The version that is there, or None.
        fits: Whether it is one of those wanted.
    """

    extra: str
    package: str
    wanted: str
    installed: str | None
    fits: bool


def doctor_command(as_json: Json = False) -> None:
    """What ``st-plugins doctor`` does; :data:`HELP` describes it."""
    found = list(packages())
    machine = {"st-plugins": st_plugins.__version__, "python": platform.python_version(), **hardware()}
    wrong = [one for one in found if one.installed and not one.fits]
    if as_json:
        typer.echo(json.dumps({"machine": machine, "packages": [asdict(one) for one in found]}))
    else:
        _print(machine, found)
    if wrong:
        raise typer.Exit(1)


def packages() -> Iterator[Found]:
    """Every package that st-plugins may use, those it always needs first.

    Example:
        >>> [found.extra for found in packages() if found.package == "langchain-core"]
        ['langchain']
    """
    extras = metadata(_PACKAGE).get_all("Provides-Extra") or []
    wanted = [Requirement(line) for line in metadata(_PACKAGE).get_all("Requires-Dist") or []]
    for extra in ["", *(name for name in extras if name not in ("all", "optimum"))]:
        for requirement in wanted:
            marker = requirement.marker
            belongs = marker is None if not extra else marker is not None and marker.evaluate({"extra": extra})
            if belongs and requirement.name != _PACKAGE and not (extra and marker and marker.evaluate({"extra": ""})):
                yield _found(extra, requirement)
                yield from (_found(extra, one) for one in _behind_extras(requirement))


def hardware() -> dict[str, str]:
    """What torch and ONNX Runtime can run on, if they are installed.

    Example:
        >>> "torch" in hardware()
        True
    """
    import torch  # only now: --help needs none of it

    devices = [torch.cuda.get_device_name(place) for place in range(torch.cuda.device_count())]
    facts = {"cores": str(os.cpu_count()), "torch": f"{torch.__version__} on {', '.join(devices) or 'CPU'}"}
    try:
        onnxruntime = import_module("onnxruntime")  # by name: nothing else here may know it
    except ModuleNotFoundError:
        return facts
    return {
        **facts,
        "onnxruntime": f"{onnxruntime.__version__} with {', '.join(onnxruntime.get_available_providers())}",
    }


def _behind_extras(requirement: Requirement) -> Iterator[Requirement]:
    """What an extra of another package stands for, like that of ``sentence-transformers[train]``."""
    try:
        lines = metadata(requirement.name).get_all("Requires-Dist") or []
    except PackageNotFoundError:
        return
    for inner in map(Requirement, lines):
        marker = inner.marker
        if marker is None or marker.evaluate({"extra": ""}):
            continue
        if any(marker.evaluate({"extra": extra}) for extra in requirement.extras):
            yield inner


def _found(extra: str, requirement: Requirement) -> Found:
    try:
        installed = version(requirement.name)
    except PackageNotFoundError:
        installed = None
    fits = installed is not None and requirement.specifier.contains(installed, prereleases=True)
    return Found(extra, requirement.name, str(requirement.specifier), installed, fits)


def _print(machine: dict[str, str], found: list[Found]) -> None:
    for name, value in machine.items():
        typer.echo(f"{name:<12}  {value}")
    for extra in dict.fromkeys(one.extra for one in found):
        ours = [one for one in found if one.extra == extra]
        typer.echo("\n" + (f"[{extra}]" if extra else "always needed"))
        for one in ours:
            state = "missing" if one.installed is None else one.installed + ("" if one.fits else "  does not fit")
            typer.echo(f"  {one.package:<22} {one.wanted:<10} {state}")
        if not all(one.fits for one in ours):
            typer.echo(f'  pip install "{_PACKAGE}[{extra}]"' if extra else f"  pip install {_PACKAGE}")
