"""One tiny random model of every supported architecture."""

import pytest
import torch
from transformers import AutoConfig, AutoModel, T5Config, T5EncoderModel

_COMMON = {
    "vocab_size": 99,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_hidden_layers": 4,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_DECODER = {**_COMMON, "num_key_value_heads": 2, "head_dim": 8}
_DISTILBERT = {
    "vocab_size": 99,
    "dim": 32,
    "hidden_dim": 48,
    "n_heads": 4,
    "n_layers": 4,
    "max_position_embeddings": 64,
}

CONFIGS = {
    "bert": _COMMON,
    "roberta": _COMMON,
    "xlm-roberta": _COMMON,
    "mpnet": _COMMON,
    "distilbert": _DISTILBERT,
    "electra": {**_COMMON, "embedding_size": 16},
    "deberta-v2": {
        **_COMMON,
        "relative_attention": True,
        "pos_att_type": ["p2c", "c2p"],
        "norm_rel_ebd": "layer_norm",
        "share_att_key": True,
        "position_buckets": 16,
        "max_relative_positions": -1,
    },
    "albert": {**_COMMON, "embedding_size": 16},
    "nomic_bert": _COMMON,
    "jina_embeddings_v3": _COMMON,
    "modernbert": {
        **_COMMON,
        "global_attn_every_n_layers": 2,
        "local_attention": 8,
        "cls_token_id": 1,
        "sep_token_id": 2,
    },
    "eurobert": {**_DECODER, "mask_token_id": 3},
    "llama": _DECODER,
    "mistral": _DECODER,
    "ministral": _DECODER,
    "phi3": {k: v for k, v in _DECODER.items() if k != "head_dim"},
    "qwen2": {k: v for k, v in _DECODER.items() if k != "head_dim"},
    "qwen3": _DECODER,
    "gemma2": {**_DECODER, "sliding_window": 8},
    "gemma3_text": {**_DECODER, "sliding_window": 8},
    "smollm3": {k: v for k, v in _DECODER.items() if k != "head_dim"},
    "t5": {"vocab_size": 99, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 4, "num_heads": 4, "pad_token_id": 0},
}
# Families that normalise before each block and once more after the last.
PRE_NORM = set(CONFIGS) - {
    *("bert", "roberta", "xlm-roberta", "mpnet", "distilbert", "electra", "deberta-v2", "albert"),
    *("nomic_bert", "jina_embeddings_v3"),
}


def available():
    """The families this version of transformers has."""
    names = []
    for name in CONFIGS:
        try:
            AutoConfig.for_model(name)
        except ValueError:
            continue
        names.append(name)
    return names


def but_slow(names, *fast):
    """Parameters of a test: these first, and the others for the slow run."""
    first = [name for name in fast if name in names]  # an old transformers does not have them all
    return [*first, *(pytest.param(name, marks=pytest.mark.slow) for name in names if name not in fast)]


def build(name, layers=4):
    """A model in evaluation mode. Norm weights are random, so that skipping a norm cannot go unnoticed."""
    options = dict(CONFIGS[name])
    if layers != 4:
        key = next(key for key in ("num_hidden_layers", "n_layers", "num_layers") if key in options)
        options[key] = layers
    torch.manual_seed(0)
    model = (
        T5EncoderModel(T5Config(**options))
        if name == "t5"
        else AutoModel.from_config(AutoConfig.for_model(name, **options))
    )
    for parameter in model.parameters():
        if parameter.ndim == 1:
            torch.nn.init.uniform_(parameter, 0.5, 2.0)
    return model.eval()


def batch():
    """Token ids (3, 12) and a mask with padding on both sides."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(5, 90, (3, 12), generator=generator)
    mask = torch.ones_like(ids)
    mask[0, 7:] = 0
    mask[1, :3] = 0
    return ids, mask


def run(model, **kwargs):
    """What a network makes of that batch, without gradients."""
    ids, mask = batch()
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=mask, **kwargs)
