"""A tiny chat model: a causal language model of random weights, a byte-level tokenizer and a template for its turns."""

import torch
from tokenizers import decoders
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

import families
from conftest import TEXTS
from tokenizer_cases import byte_level

TEMPLATE = (
    "{% for message in messages %}<s>{{ message['role'] }}\n{{ message['content'] | trim }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant\n{% endif %}"
)
LENGTH = 160


def tokenizer(template=TEMPLATE):
    fast = byte_level([*TEXTS, "Passage: Query: word lowercase search engine The word is", "assistant user system"] * 4)
    fast.decoder = decoders.ByteLevel()
    names = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    chatting = PreTrainedTokenizerFast(tokenizer_object=fast, model_max_length=LENGTH, **names)
    chatting.chat_template = template
    return chatting


def save_chat_model(folder, family="llama", template=TEMPLATE):
    """A folder of transformers: 4 layers, 32 wide."""
    chatting = tokenizer(template)
    options = {**families.CONFIGS[family], "vocab_size": len(chatting), "max_position_embeddings": 512}
    torch.manual_seed(3)
    network = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **options, initializer_range=0.3))
    for parameter in network.parameters():
        if parameter.ndim == 1:
            torch.nn.init.uniform_(parameter, 0.5, 2.0)
    network.eval().save_pretrained(folder)
    chatting.save_pretrained(folder)
    return folder
