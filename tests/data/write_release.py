"""Writes ``data/<version>/``: a tiny saved model and its vectors. Run once per release that changes the format.

Run it on the older sentence-transformers line (`make test-compat` sets it up): the newer one reads what that writes,
but not the other way round.
"""

import json
from pathlib import Path

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
from transformers import BertConfig, BertModel

import conftest
import st_plugins

TEXTS = ["the cat sat on the mat", "a dog ran"]
CASES = [{}, {"layer": 1}, {"layer": 1, "truncate_dim": 4}, {"truncate_dim": 4}]


def main() -> None:
    folder = Path(__file__).parent / f"v{st_plugins.__version__}"
    tokenizer = conftest.tokenizer.__wrapped__()
    torch.manual_seed(11)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=8,
        intermediate_size=8,
        num_attention_heads=2,
        num_hidden_layers=2,
        max_position_embeddings=16,
        initializer_range=0.4,
    )
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    modules = [Transformer(str(folder)), Pooling(8, "mean"), Normalize()]
    model = st_plugins.elastic(SentenceTransformer(modules=modules, device="cpu"), sizes=[(1, 4), (2, 4)])
    model.save_pretrained(str(folder), create_model_card=False)
    expected = {
        "texts": TEXTS,
        "classes": [type(module).__name__ for module in model.children()],
        "fingerprint": st_plugins.fingerprint(model),
        "cases": [{"options": case, "vectors": model.encode(TEXTS, **case).round(7).tolist()} for case in CASES],
    }
    (folder / "expected.json").write_text(json.dumps(expected, indent=1))


if __name__ == "__main__":
    main()
