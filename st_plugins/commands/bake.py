"""``st-plugins bake``: one size of an elastic model as a plain one."""

import json
from typing import Annotated

import typer

from st_plugins.commands.option_types import Json, ModelFolder, parse_size

HELP = """
Freeze one size of an elastic model into a plain model, which loads anywhere without this package.

\b
Example:
  st-plugins bake minilm-elastic minilm-3x128 --size 3x128
"""


def bake_command(
    model: ModelFolder,
    output: Annotated[str, typer.Argument(metavar="OUTPUT", help="A new folder.")],
    size: Annotated[str, typer.Option(metavar="LAYERxDIM", help="For instance 3x128.")],
    as_json: Json = False,
) -> None:
    """What ``st-plugins bake`` does with its arguments; :data:`HELP` describes it."""
    layer, dim = parse_size(size)

    import st_plugins  # only now: --help needs none of it
    from st_plugins.commands.saved_models import check_new_folder, save_new
    from st_plugins.fingerprints import fingerprint

    check_new_folder(output)
    baked = st_plugins.bake(st_plugins.load(model), layer=layer, dim=dim)
    save_new(baked, output)
    found = {"folder": output, "layer": layer, "dim": dim, "fingerprint": fingerprint(baked)}
    if as_json:
        typer.echo(json.dumps(found))
    else:
        typer.echo(f"{output}: {layer} layers, {dim} dimensions, opens with SentenceTransformer({output!r})")
