"""Models around the tiny networks of every family, with the tiny tokenizer."""

from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

import families

SHORT = ["the cat sat on the mat", "it", "a dog ran"]
LONG = "the red dog was under the blue tree and the cat was in it and slow is fast " * 5


def build(name, tokenizer, folder):
    """A plain model whose tokenizer cuts where the positions of the family end, at 62."""
    network = families.build(name)
    for parameter in network.parameters():
        if parameter.ndim == 2:
            parameter.data *= 5  # attention that prefers some tokens, positions that matter
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    model = SentenceTransformer(modules=[Transformer(str(folder)), Pooling(32, "mean"), Normalize()], device="cpu")
    model.max_seq_length = 62
    return model.eval()
