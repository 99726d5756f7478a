"""A tiny model whose tokenizer has word pieces and a mask token, and sentences to hide words of."""

from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

import families
import st_plugins
from conftest import WORDS
from st_plugins.training import NestedMaskingCollator

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
PIECES = ["##s", "##ing", "##er", "jump", "walk", "."]
SENTENCES = [
    "the cats jumping on the red mat .",
    "a dog walks fast",
    "the jumper ran under the blue tree and the walker sat in it",
    "slow is fast .",
    "the cat was walking to the dogs of the red tree",
    "it is a fast jumper",
]


def tokenizer(splits_words=True):
    vocabulary = {token: index for index, token in enumerate([*SPECIAL, *WORDS, *PIECES])}
    fast = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    fast.normalizer = normalizers.Lowercase()
    if splits_words:
        fast.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    fast.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    inputs = ["input_ids", "attention_mask"]
    return PreTrainedTokenizerFast(tokenizer_object=fast, model_max_length=32, model_input_names=inputs, **names)


def build(folder, family="bert", pooling="mean", layers=4):
    """A plain model of a tiny family: 4 layers, 32 wide, unit vectors."""
    families.build(family, layers).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    transformer = Transformer(str(folder))
    return SentenceTransformer(modules=[transformer, Pooling(32, pooling), Normalize()], device="cpu").eval()


def build_elastic(folder, family="bert", pooling="mean"):
    return st_plugins.elastic(build(folder, family, pooling))


def batch(model, texts=SENTENCES):
    """What a loss of masked texts is given."""
    collated = NestedMaskingCollator(model)([{"text": text} for text in texts])
    return {name.removeprefix("text_"): value for name, value in collated.items()}
