import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from transformers import BertConfig, BertModel, GPT2Config, GPT2Model, GraniteConfig, GraniteModel

import families
import generation_cases
from decoder_cases import DECODERS
from generation_cases import scores, with_network
from st_plugins.bidirectional_attention import bidirectional
from st_plugins.errors import LossError, UnsupportedModelError
from st_plugins.losses.generation import check_generation


@pytest.mark.parametrize("family", [name for name in families.available() if name not in DECODERS])
def test_encoders_are_refused_by_name(family, tmp_path, tokenizer):
    model = generation_cases.build(tmp_path, tokenizer, family)
    name = type(model[0].model).__name__
    with pytest.raises(UnsupportedModelError, match=f"must be a decoder, .* the tokens of {name} see later ones"):
        check_generation(model, None)


@pytest.mark.parametrize("family", DECODERS)
def test_decoders_pass(family, tmp_path, tokenizer):
    model = generation_cases.build(tmp_path, tokenizer, family)
    model.max_seq_length = 8
    check_generation(model, None)
    check_generation(bidirectional(model), None)


def test_a_decoder_that_drops_out_passes_in_training_mode_as_well(llama):
    config = GPT2Config(vocab_size=99, n_embd=32, n_layer=2, n_head=4, initializer_range=0.3)
    model = with_network(llama, GPT2Model(config)).train()
    assert not torch.equal(torch.cat(scores(model)), torch.cat(scores(model)))
    check_generation(model, None)
    assert model[0].model.h[0].attn.attn_dropout.training


def test_other_first_modules_are_refused(tokenizer):
    model = SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=8)], device="cpu")
    with pytest.raises(UnsupportedModelError, match="must be a Transformer around a decoder, got StaticEmbedding"):
        check_generation(model, None)


def test_without_a_head_the_embeddings_must_be_tied(llama):
    llama[0].model.config.tie_word_embeddings = False
    with pytest.raises(
        UnsupportedModelError, match=r"LlamaModel says tie_word_embeddings=False. Give head=AutoModelFor"
    ):
        check_generation(llama, None)
    check_generation(llama, torch.nn.Linear(32, 99).requires_grad_(False))


def test_without_a_head_it_must_be_a_matrix_alone(llama):
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    bert = BertModel(BertConfig(vocab_size=99, is_decoder=True, **sizes), add_pooling_layer=False)
    with pytest.raises(UnsupportedModelError, match="of BertModel transforms the states first. Give the whole head"):
        check_generation(with_network(llama, bert), None)
    gpt2 = GPT2Model(GPT2Config(vocab_size=99, n_embd=32, n_layer=2, n_head=4))
    check_generation(with_network(llama, gpt2), None)
    granite = GraniteModel(GraniteConfig(vocab_size=99, tie_word_embeddings=True, logits_scaling=8.0, **sizes))
    with pytest.raises(UnsupportedModelError, match=r"GraniteModel has logits_scaling=8.0. Give a head that returns"):
        check_generation(with_network(llama, granite), None)
    granite.config.logits_scaling = 1.0
    check_generation(with_network(llama, granite), None)


def test_a_head_must_be_a_frozen_module(llama):
    with pytest.raises(LossError, match="head must be a module from states to logits, got Tensor. Give AutoModel"):
        check_generation(llama, torch.ones(99, 32))
    with pytest.raises(LossError, match=r"head must be frozen, .* parameters of Linear ask .* head.requires_grad_"):
        check_generation(llama, torch.nn.Linear(32, 99))
    own = torch.nn.Linear(32, 99, bias=False)
    own.weight = llama[0].model.embed_tokens.weight
    check_generation(llama, own)  # trained and saved with the model
