import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer

import st_plugins
from st_plugins.commands.program import app, main

ROOT = Path(__file__).parents[3]
PROGRAM = typer.main.get_command(app)
PLACES = [*ROOT.glob("*.md"), *ROOT.glob("*/README.md"), *(ROOT / "st_plugins").rglob("commands/*.py")]
SHOWN = sorted({
    line.strip() for place in PLACES for line in re.findall(r"^ *st-plugins .*$", place.read_text(), re.MULTILINE)
})  # fmt: skip


def test_a_refusal_is_one_line_and_exit_code_1(tmp_path, capsys):
    assert main(["embed", str(tmp_path), str(tmp_path / "out"), "--model", "m"]) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("error: ")
    assert shown.err.count("\n") == 1


def test_wrong_arguments_are_exit_code_2(capsys):
    assert main(["embed", "in"]) == 2
    assert main(["dance"]) == 2
    assert "No such command 'dance'" in capsys.readouterr().err


def test_version_and_help(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == st_plugins.__version__
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    names = "elastic grid calibrate bake export embed index search report inspect doctor".split()
    assert [line.split()[0] for line in shown.splitlines() if line.startswith("  ")][-len(names) :] == names
    for name in names:
        assert main([name, "--help"]) == 0
        assert capsys.readouterr().out.startswith(f"Usage: st-plugins {name} ")


def test_every_subcommand_is_shown_somewhere():
    assert {line.split()[1] for line in SHOWN} >= PROGRAM.commands.keys() - {"doctor"}


@pytest.mark.parametrize("line", SHOWN)
def test_a_command_that_readers_see_can_be_read(line):
    _, name, *arguments = shlex.split(line, comments=True)
    PROGRAM.commands[name].make_context(name, arguments)


def test_help_imports_no_torch():
    code = (
        "import sys; from st_plugins.commands.program import main; "
        "main(['embed', '--help']); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)
