"""The traced graph is right for every family of transformers, and the copy it is traced from is a copy."""

import pytest
import torch
import transformers
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

import st_plugins
from families import but_slow
from st_plugins_export import export_onnx
from st_plugins_export.graph import plain_copy, write_graph

SIZES = {"vocab_size": 80, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 48}
DECODER = {**SIZES, "num_key_value_heads": 1, "head_dim": 16, "max_position_embeddings": 64, "pad_token_id": 0}
QWEN2 = {name: value for name, value in DECODER.items() if name != "head_dim"}
DISTILBERT = {"vocab_size": 80, "dim": 32, "n_layers": 3, "n_heads": 2, "hidden_dim": 48, "max_position_embeddings": 64}
T5 = {"vocab_size": 80, "d_model": 32, "d_kv": 16, "d_ff": 48, "num_layers": 3, "num_heads": 2, "pad_token_id": 0}
# Configuration class, its options, pooling.
FAMILIES = {
    "XLM-R": ("XLMRobertaConfig", {**SIZES, "pad_token_id": 0, "max_position_embeddings": 66}, "mean"),
    "MPNet": ("MPNetConfig", {**SIZES, "max_position_embeddings": 66}, "mean"),
    "ALBERT": ("AlbertConfig", {**SIZES, "embedding_size": 16}, "mean"),
    "DeBERTa": ("DebertaV2Config", {**SIZES, "relative_attention": True, "pos_att_type": ["p2c", "c2p"]}, "mean"),
    "ModernBERT": (
        "ModernBertConfig",
        {**SIZES, "pad_token_id": 0, "local_attention": 8, "global_attn_every_n_layers": 2},
        "cls",
    ),
    "Qwen3": ("Qwen3Config", DECODER, "lasttoken"),
    "Gemma3": ("Gemma3TextConfig", {**DECODER, "sliding_window": 8}, "mean"),
    "BERT": ("BertConfig", SIZES, "mean"),
    "RoBERTa": ("RobertaConfig", {**SIZES, "pad_token_id": 0, "max_position_embeddings": 66}, "mean"),
    "DistilBERT": ("DistilBertConfig", DISTILBERT, "mean"),
    "ELECTRA": ("ElectraConfig", {**SIZES, "embedding_size": 16}, "cls"),
    "NomicBERT": ("NomicBertConfig", {**SIZES, "max_position_embeddings": 64, "pad_token_id": 0}, "mean"),
    "EuroBERT": ("EuroBertConfig", {**DECODER, "mask_token_id": 4}, "mean"),
    "T5": ("T5Config", T5, "mean"),
    "Llama": ("LlamaConfig", DECODER, "lasttoken"),
    "Mistral": ("MistralConfig", {**DECODER, "sliding_window": 8}, "lasttoken"),
    "Qwen2": ("Qwen2Config", QWEN2, "lasttoken"),
    "Gemma": ("GemmaConfig", DECODER, "lasttoken"),
    "Gemma2": ("Gemma2Config", {**DECODER, "sliding_window": 8}, "lasttoken"),
}
# One of each kind; the rest differ from these in less than an export can get wrong.
FAST = ("ModernBERT", "T5")


IS_OLD = int(transformers.__version__.split(".")[0]) < 5


@pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")  # transformers 4 compiles parts of DeBERTa
@pytest.mark.parametrize("family", but_slow(FAMILIES, *FAST))
def test_every_family_gives_the_vectors_of_torch(tmp_path, save_tokenizer, family):
    config, options, pooling = FAMILIES[family]
    if IS_OLD and (pooling == "lasttoken" or family == "Gemma3"):
        pytest.skip("transformers 4 builds causal masks with vmap, which a trace cannot follow")
    torch.manual_seed(0)
    if not hasattr(transformers, config):
        pytest.skip(f"transformers {transformers.__version__} has no {config}")
    made = getattr(transformers, config)(**options)
    network = transformers.T5EncoderModel(made) if family == "T5" else transformers.AutoModel.from_config(made)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    network.save_pretrained(tmp_path / "model")
    side = "left" if pooling == "lasttoken" else "right"
    save_tokenizer(tmp_path / "model", padding_side=side, token_types=False)
    modules = [Transformer(str(tmp_path / "model")), Pooling(32, pooling), Normalize()]
    model = st_plugins.elastic(SentenceTransformer(modules=modules, device="cpu"))
    report = export_onnx(model, tmp_path / "out", sizes=[(2, 16)], show_progress=False)
    assert report.max_difference <= 1e-5


def test_a_copy_runs_the_attention_of_its_model(elastic, tmp_path):
    copied = plain_copy(elastic, layer=2, dim=16)
    write_graph(copied, tmp_path / "graph.onnx")
    assert copied[0].auto_model.config._attn_implementation == elastic[0].auto_model.config._attn_implementation


def test_a_copy_shares_nothing(elastic):
    for size in ({}, {"layer": 2, "dim": 16}):
        copied = plain_copy(elastic, **size)
        pointers = {parameter.data_ptr() for parameter in elastic.parameters()}
        assert pointers.isdisjoint(parameter.data_ptr() for parameter in copied.parameters())
        assert copied.tokenizer is not elastic.tokenizer


@pytest.mark.skipif(IS_OLD, reason="transformers 4 has no flash attention for BERT")
def test_a_copy_needs_no_cuda(elastic):
    flash = plain_copy(elastic)
    flash[0].auto_model.config._attn_implementation = "flash_attention_2"
    assert plain_copy(flash)[0].auto_model.config._attn_implementation == "sdpa"
