"""Tokenizers of the usual kinds, trained on two lines, and a model that speaks them."""

from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

CORPUS = ["Instruct: find cats", "Query: cats are red (not blue) 12 über : a tree Cats"] * 4
SPECIAL = ["<pad>", "<unk>", "<s>", "</s>"]


def byte_level(corpus=CORPUS):
    """As GPT-2's, Llama 3's and Qwen's: a space is the first byte of the next token."""
    fast = Tokenizer(models.BPE())
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=alphabet, special_tokens=SPECIAL, show_progress=False
    )
    fast.train_from_iterator(corpus, trainer)
    fast.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 3)])
    return fast


def sentence_piece():
    """As Mistral's and XLM-RoBERTa's: a space is a mark at the beginning of the next token."""
    words = [word for line in CORPUS for word in line.split()]
    pieces = sorted({f"▁{word}" for word in words} | {*"".join(words)} | {"▁", "\n"})
    scores = [(token, -1.0) for token in SPECIAL] + [(piece, -float(1 / len(piece))) for piece in pieces]
    fast = Tokenizer(models.Unigram(scores, unk_id=1))
    fast.pre_tokenizer = pre_tokenizers.Metaspace()
    fast.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 2), ("</s>", 3)])
    return fast


def joins_marks():
    """One that takes a run of marks as one token, a new line among them, and drops spaces."""
    fast = byte_level()
    fast.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(" ", "removed"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    fast.train_from_iterator(
        [*CORPUS, "Query:cats Query:\ncats"] * 4,
        trainers.BpeTrainer(vocab_size=500, special_tokens=SPECIAL, show_progress=False),
    )
    return fast


def speaking(plain, fast, length=64):
    """The tiny model with another tokenizer."""
    names = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    plain[0].processor = PreTrainedTokenizerFast(
        tokenizer_object=fast, model_max_length=length, model_input_names=["input_ids", "attention_mask"], **names
    )
    plain[0].model.resize_token_embeddings(fast.get_vocab_size())
    return plain
