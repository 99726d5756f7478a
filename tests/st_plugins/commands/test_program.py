import subprocess
import sys
from pathlib import Path

import st_plugins
from st_plugins.commands.program import main

ROOT = Path(__file__).parents[3]


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
    assert "embed" in capsys.readouterr().out


def test_help_imports_no_torch():
    code = (
        "import sys; from st_plugins.commands.program import main; "
        "main(['embed', '--help']); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)
