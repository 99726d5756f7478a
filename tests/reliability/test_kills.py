"""kill -9 while something is written: what is found afterwards is whole, or refused as what it is."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import st_plugins
from st_plugins.errors import StPluginsError
from st_plugins_export import OnnxEncoder

ROOT = Path(__file__).parents[2]
START = "import sys, itertools, st_plugins; model = st_plugins.load(sys.argv[1], device='cpu')\n"
SAVE = START + "print('ready', flush=True)\nfor i in itertools.count(): model.save_pretrained(f'{sys.argv[2]}/{i}')"
EXPORT = (
    START
    + "from st_plugins_export import export_onnx\nprint('ready', flush=True)\n"
    + "while True: export_onnx(model, sys.argv[2] + '/out', show_progress=False)"
)


def killed_after(seconds, code, *arguments):
    """Run code until it says that it is ready, and kill it some time later."""
    paths = os.pathsep.join([str(ROOT), str(ROOT / "export")])
    environment = {**os.environ, "PYTHONPATH": paths, "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", code, *map(str, arguments)], env=environment, stdout=subprocess.PIPE
    )
    with process.stdout:
        assert process.stdout.readline() == b"ready\n"
        time.sleep(seconds)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL


@pytest.mark.slow
def test_a_model_killed_while_it_is_saved_is_whole_or_refused(saved, texts, tmp_path):
    """The save is sentence-transformers', which writes in place."""
    expected = st_plugins.load(saved, device="cpu").encode(texts)
    for attempt in range(4):
        target = tmp_path / f"saves{attempt}"
        target.mkdir()
        killed_after(0.05 + 0.037 * attempt, SAVE, saved, target)
        for folder in target.iterdir():
            try:
                found = st_plugins.load(folder, device="cpu").encode(texts)
            except (StPluginsError, FileNotFoundError):
                assert folder.name == str(len(list(target.iterdir())) - 1), "only the last save was interrupted"
            else:
                np.testing.assert_array_equal(found, expected)


@pytest.mark.slow
def test_a_model_of_which_a_file_is_missing_or_half_written_is_refused_or_the_same(saved, texts):
    """What a kill leaves at any moment of a save: each file alone missing, empty, or cut in the middle."""
    expected = st_plugins.load(saved, device="cpu").encode(texts)
    for file in sorted(path for path in saved.rglob("*") if path.is_file()):
        content = file.read_bytes()
        for rest in (None, b"", content[: len(content) // 2]):
            file.unlink()
            if rest is not None:
                file.write_bytes(rest)
            try:
                found = st_plugins.load(saved, device="cpu").encode(texts)
            except (StPluginsError, FileNotFoundError):
                pass
            else:
                assert np.array_equal(found, expected), (file.name, rest)
            file.write_bytes(content)


@pytest.mark.slow
def test_an_export_killed_while_it_is_written_is_the_old_one_or_the_new_one(saved, texts, tmp_path):
    expected = st_plugins.load(saved, device="cpu").encode(texts)
    for attempt in range(3):
        killed_after(3 + 0.7 * attempt, EXPORT, saved, tmp_path)
        if (tmp_path / "out").exists():
            np.testing.assert_allclose(OnnxEncoder(tmp_path / "out").encode(texts), expected, atol=1e-5)
    assert (tmp_path / "out").exists()
