"""A tiny NV-Embed folder as published: same names, same files, same kind of tokenizer."""

import json

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors

WORDS = "Instruct: find Query: cats are cat dog sat the a red tree".split()
BODY = {
    "vocab_size": 99,
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500.0,
    "sliding_window": 4,
    "model_type": "bidir_mistral",
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LATENTS = {
    "latent_dim": 8,
    "hidden_dim": 8,
    "num_latents_value": 5,
    "num_cross_heads": 3,
    "cross_dim_head": 4,
    "output_normalize": True,
    "model_type": "latent_attention",
}
CONFIG = {
    "model_type": "nvembed",
    "architectures": ["NVEmbedModel"],
    "auto_map": {"AutoModel": "modeling_nvembed.NVEmbedModel"},
    "padding_side": "right",
    "add_eos": True,
    "is_mask_instruction": True,
    "mask_type": "b",
    "text_config": BODY,
    "latent_attention_config": LATENTS,
}


def published(layers, vocabulary, width, inner, key_width, latents, heads_width):
    """Every name in the published index, with its shape."""
    shapes = {"embedding_model.embed_tokens.weight": (vocabulary, width), "embedding_model.norm.weight": (width,)}
    for layer in range(layers):
        shapes |= {
            f"embedding_model.layers.{layer}.input_layernorm.weight": (width,),
            f"embedding_model.layers.{layer}.post_attention_layernorm.weight": (width,),
            f"embedding_model.layers.{layer}.self_attn.q_proj.weight": (width, width),
            f"embedding_model.layers.{layer}.self_attn.k_proj.weight": (key_width, width),
            f"embedding_model.layers.{layer}.self_attn.v_proj.weight": (key_width, width),
            f"embedding_model.layers.{layer}.self_attn.o_proj.weight": (width, width),
            f"embedding_model.layers.{layer}.mlp.gate_proj.weight": (inner, width),
            f"embedding_model.layers.{layer}.mlp.up_proj.weight": (inner, width),
            f"embedding_model.layers.{layer}.mlp.down_proj.weight": (width, inner),
        }
    prefix = "latent_attention_model."
    return shapes | {
        f"{prefix}latents": (latents, width),
        f"{prefix}cross_attend_blocks.0.norm.weight": (width,),
        f"{prefix}cross_attend_blocks.0.norm.bias": (width,),
        f"{prefix}cross_attend_blocks.0.norm_context.weight": (width,),
        f"{prefix}cross_attend_blocks.0.norm_context.bias": (width,),
        f"{prefix}cross_attend_blocks.0.fn.to_q.weight": (heads_width, width),
        f"{prefix}cross_attend_blocks.0.fn.to_kv.weight": (2 * heads_width, width),
        f"{prefix}cross_attend_blocks.0.fn.to_out.weight": (width, heads_width),
        f"{prefix}cross_attend_blocks.1.norm.weight": (width,),
        f"{prefix}cross_attend_blocks.1.norm.bias": (width,),
        f"{prefix}cross_attend_blocks.1.fn.net.0.weight": (8 * width, width),
        f"{prefix}cross_attend_blocks.1.fn.net.0.bias": (8 * width,),
        f"{prefix}cross_attend_blocks.1.fn.net.2.weight": (width, 4 * width),
        f"{prefix}cross_attend_blocks.1.fn.net.2.bias": (width,),
    }


TINY = published(2, 99, 8, 12, 4, 5, 12)


def tokenizer():
    """As Mistral's: a space is the start of the next token, and alone a token of its own. It adds <s>, no </s>."""
    vocabulary = {token: index for index, token in enumerate(["<unk>", "<s>", "</s>", "<0x0A>", "▁"])}
    for letter in sorted(set("".join(WORDS))):
        vocabulary[letter] = len(vocabulary)
    merges = []
    for word in WORDS:
        token = "▁"
        for letter in word:
            merges.append((token, letter))
            token += letter
            vocabulary.setdefault(token, len(vocabulary))
    bpe = Tokenizer(
        models.BPE(vocabulary, sorted(set(merges), key=merges.index), unk_token="<unk>", byte_fallback=True)
    )
    bpe.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    bpe.decoder = decoders.Replace("▁", " ")
    bpe.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    bpe.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in ("<unk>", "<s>", "</s>")])
    return bpe


def weights(dtype=torch.float32):
    generator = torch.Generator().manual_seed(3)
    return {name: torch.randn(shape, generator=generator).to(dtype) * 0.5 for name, shape in TINY.items()}


def write_checkpoint(folder, tensors=None, config=CONFIG):
    """In two shards, with an index, as published."""
    tensors = weights() if tensors is None else tensors
    names = sorted(tensors)
    shards = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, part in shards.items():
        save_file({name: tensors[name] for name in part}, folder / file, metadata={"format": "pt"})
    weight_map = {name: file for file, part in shards.items() for name in part}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer().save(str(folder / "tokenizer.json"))
    return folder
