"""Tiny decoders that can be asked what follows, the language models they belong to, and triplets of texts."""

import copy

from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
from tokenizers import processors
from transformers import AutoModelForCausalLM

import families
from st_plugins.losses.generation import passage_log_probs

QUERIES = ["the cat sat", "a dog ran fast", "it"]
POSITIVES = ["a cat sat on the mat", "the dog", "it was slow and it was blue"]
NEGATIVES = ["tree", "the mat is blue", "a red dog"]
OTHERS = ["the red tree was under the mat", "slow", "in it"]


def template(single):
    return processors.TemplateProcessing(single=single, special_tokens=[("[CLS]", 2), ("[SEP]", 3)])


def build(folder, tokenizer, family="llama", is_tied=True):
    """A plain model: 4 layers, 32 wide, unit vectors. Its tokenizer puts [CLS] before a text and [SEP] behind it."""
    network = families.build(family)
    network.config.tie_word_embeddings = is_tied
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    transformer = Transformer(str(folder))
    return SentenceTransformer(modules=[transformer, Pooling(32, "mean"), Normalize()], device="cpu").eval()


def language_model(network):
    """What transformers makes of the same weights and their configuration; its head is tied or random."""
    config = type(network.config).from_dict({**network.config.to_dict(), "is_causal": True})
    whole = AutoModelForCausalLM.from_config(config).to(network.dtype).eval()
    whole.model.load_state_dict(network.state_dict())
    return whole.requires_grad_(False)


def columns(model, *texts):
    return [model.preprocess(list(column)) for column in texts or (QUERIES, POSITIVES, NEGATIVES, OTHERS)]


def words(model, texts, before=True, behind=True):
    """Token ids of texts as lists, with or without the special token on either side."""
    rows = [model.tokenizer(text)["input_ids"] for text in texts]
    return [row[0 if before else 1 : len(row) if behind else -1] for row in rows]


def scores(model, queries=QUERIES, passages=POSITIVES, head=None):
    """Log probabilities of the tokens of each passage after its query."""
    return passage_log_probs(model[0], *columns(model, queries, passages), head)


def with_network(model, network):
    """A copy around another network."""
    model = copy.deepcopy(model)
    model[0].model = network.eval()
    return model
