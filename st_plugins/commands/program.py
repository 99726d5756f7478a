"""``st-plugins``: reads the command line, runs a subcommand, and turns our errors into one line and an exit code."""

import sys
from collections.abc import Sequence

import typer

import st_plugins
from st_plugins.commands import bake, calibrate, doctor, elastic, embed, export, grid, index, inspect, report, search
from st_plugins.errors import StPluginsError

app = typer.Typer(
    name="st-plugins",
    help="One sentence-transformers model, every size.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
# In the order of their use.
app.command("elastic", help=elastic.HELP)(elastic.elastic_command)
app.command("grid", help=grid.HELP)(grid.grid_command)
app.command("calibrate", help=calibrate.HELP)(calibrate.calibrate_command)
app.command("bake", help=bake.HELP)(bake.bake_command)
app.command("export", help=export.HELP)(export.export_command)
app.command("embed", help=embed.HELP)(embed.embed_command)
app.command("index", help=index.HELP)(index.index_command)
app.command("search", help=search.HELP)(search.search_command)
app.command("report", help=report.HELP)(report.report_command)
app.command("inspect", help=inspect.HELP)(inspect.inspect_command)
app.command("doctor", help=doctor.HELP)(doctor.doctor_command)


@app.callback(invoke_without_command=True)
def _program(version: bool = typer.Option(False, "--version", help="Print the version and leave.")) -> None:
    """One sentence-transformers model, every size."""
    if version:
        typer.echo(st_plugins.__version__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: Without the name of the program; None for those of this process.

    Returns:
        int: 0, 1 if something was refused or could not be written, 2 if the arguments are wrong, 130 after Ctrl-C.
    """
    try:
        app(args=None if arguments is None else list(arguments), prog_name="st-plugins")
    except SystemExit as done:
        return done.code if isinstance(done.code, int) else int(done.code is not None)
    except (StPluginsError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


def run() -> None:
    """What the installed command calls."""
    sys.exit(main())
