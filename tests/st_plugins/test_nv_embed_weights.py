import json

import pytest
import torch
from safetensors.torch import save_file

from nv_embed_cases import BODY, CONFIG, LATENTS, TINY, published, weights, write_checkpoint
from st_plugins.errors import UnsafeModelError, UnsupportedModelError
from st_plugins.nv_embed_weights import (
    empty_nv_embed,
    load_published,
    published_file,
    published_settings,
    published_shapes,
)


def test_names_and_shapes_of_the_published_checkpoints():
    parts = empty_nv_embed({}, {})
    expected = published(32, 32000, 4096, 14336, 1024, 512, 32768)
    assert published_shapes(*parts) == expected
    assert len(expected) == 304
    assert sum(torch.Size(shape).numel() for shape in expected.values()) == 7_851_016_192
    assert sum(parameter.numel() for part in parts for parameter in part.parameters()) == 7_851_016_192
    assert {parameter.device.type for part in parts for parameter in part.parameters()} == {"meta"}


def test_names_and_shapes_of_a_smaller_one():
    assert published_shapes(*empty_nv_embed(BODY, LATENTS)) == TINY


def test_the_settings_reach_the_parts():
    network, pooling = empty_nv_embed(BODY, LATENTS)
    assert network.config.rms_norm_eps == 1e-5
    assert network.config.sliding_window is None
    assert not network.training
    assert not pooling.training
    assert pooling.include_prompt is False
    assert (pooling.num_latents, pooling.num_heads, pooling.head_dim) == (5, 3, 4)


def test_every_tensor_arrives_where_it_belongs(tmp_path):
    network, pooling = empty_nv_embed(BODY, LATENTS)
    load_published(write_checkpoint(tmp_path, weights(torch.float16)), network, pooling)
    published_tensors = weights(torch.float16)
    own = {f"embedding_model.{name}": tensor for name, tensor in network.state_dict().items()}
    for name, tensor in own.items():
        assert torch.equal(tensor, published_tensors[name])
    own = pooling.state_dict()
    block = "latent_attention_model.cross_attend_blocks."
    pairs = {
        "latents": published_tensors["latent_attention_model.latents"],
        "cross_attention.query_norm.weight": published_tensors[f"{block}0.norm.weight"],
        "cross_attention.query_norm.bias": published_tensors[f"{block}0.norm.bias"],
        "cross_attention.context_norm.weight": published_tensors[f"{block}0.norm_context.weight"],
        "cross_attention.context_norm.bias": published_tensors[f"{block}0.norm_context.bias"],
        "cross_attention.to_queries.weight": published_tensors[f"{block}0.fn.to_q.weight"],
        "cross_attention.to_keys.weight": published_tensors[f"{block}0.fn.to_kv.weight"][:12],
        "cross_attention.to_values.weight": published_tensors[f"{block}0.fn.to_kv.weight"][12:],
        "cross_attention.to_output.weight": published_tensors[f"{block}0.fn.to_out.weight"],
        "feed_forward.norm.weight": published_tensors[f"{block}1.norm.weight"],
        "feed_forward.norm.bias": published_tensors[f"{block}1.norm.bias"],
        "feed_forward.expand.weight": published_tensors[f"{block}1.fn.net.0.weight"],
        "feed_forward.expand.bias": published_tensors[f"{block}1.fn.net.0.bias"],
        "feed_forward.contract.weight": published_tensors[f"{block}1.fn.net.2.weight"],
        "feed_forward.contract.bias": published_tensors[f"{block}1.fn.net.2.bias"],
    }
    assert own.keys() == pairs.keys()
    for name, tensor in pairs.items():
        assert torch.equal(own[name], tensor), name
    tensors = [*network.parameters(), *pooling.parameters()]
    assert {tensor.dtype for tensor in tensors} == {torch.float16}
    assert all(tensor.requires_grad for tensor in tensors)


def test_rotary_frequencies_are_those_of_the_settings(tmp_path):
    network, pooling = empty_nv_embed(BODY, LATENTS)
    load_published(write_checkpoint(tmp_path), network, pooling)
    # Heads of two dimensions have one frequency, 1; of base 500 the second of four would be 1 / sqrt(500).
    assert network.rotary_emb.inv_freq.tolist() == [1.0]
    wide = {**BODY, "num_attention_heads": 2, "num_key_value_heads": 1}
    network, pooling = empty_nv_embed(wide, LATENTS)
    load_published(tmp_path, network, pooling)
    assert torch.allclose(network.rotary_emb.inv_freq, torch.tensor([1.0, 500**-0.5]))
    assert not [name for name, tensor in [*network.named_buffers(), *pooling.named_buffers()] if tensor.is_meta]


def test_training_does_not_write_into_the_download(tmp_path):
    network, pooling = empty_nv_embed(BODY, LATENTS)
    load_published(write_checkpoint(tmp_path), network, pooling)
    before = {file: file.read_bytes() for file in tmp_path.glob("*.safetensors")}
    with torch.no_grad():
        for parameter in [*network.parameters(), *pooling.parameters()]:
            parameter.add_(1)
    assert {file: file.read_bytes() for file in before} == before


def test_one_file_without_an_index_does_too(tmp_path):
    network, pooling = empty_nv_embed(BODY, LATENTS)
    save_file(weights(), tmp_path / "model.safetensors")
    load_published(tmp_path, network, pooling)
    assert torch.equal(pooling.latents, weights()["latent_attention_model.latents"])


def test_settings_are_read(tmp_path):
    assert published_settings(write_checkpoint(tmp_path)) == (BODY, LATENTS)


def test_all_wrong_tensors_are_named_at_once(tmp_path):
    tensors = weights()
    tensors["latent_attention_model.latents"] = torch.ones(5, 9)
    tensors["lm_head.weight"] = torch.ones(2)
    del tensors["embedding_model.norm.weight"]
    write_checkpoint(tmp_path, tensors)
    message = (
        r"Missing: \['embedding_model.norm.weight'\]. Unknown: \['lm_head.weight'\]. "
        r"Other shapes: \['latent_attention_model.latents \(5, 9\) instead of \(5, 8\)'\]. Download the folder again."
    )
    parts = empty_nv_embed(BODY, LATENTS)
    with pytest.raises(UnsupportedModelError, match=message):
        load_published(tmp_path, *parts)
    assert all(parameter.is_meta for part in parts for parameter in part.parameters())


@pytest.mark.parametrize(
    ("changed", "needed", "given"),
    [
        ({"padding_side": "left"}, "'padding_side': 'right'", "'left'"),
        ({"add_eos": False}, "'add_eos': True", "False"),
        ({"is_mask_instruction": False}, "'is_mask_instruction': True", "False"),
        ({"mask_type": "c"}, "'mask_type': 'b'", "'c'"),
        ({"latent_attention_config": {**LATENTS, "output_normalize": False}}, "'output_normalize': True", "False"),
        ({"latent_attention_config": {**LATENTS, "latent_dim": 16}}, "'latent_dim': 8", "16"),
        ({"latent_attention_config": {}}, "'latent_dim': 8, 'hidden_dim': 8", "4096"),
    ],
)
def test_other_settings_are_refused(tmp_path, changed, needed, given):
    write_checkpoint(tmp_path, config={**CONFIG, **changed})
    message = f"config.json must say {{{needed}}}, as NV-Embed v1 and v2 do, got {{'.*': {given}.*}}. This is another"
    with pytest.raises(UnsupportedModelError, match=message):
        published_settings(tmp_path)


def test_the_config_of_another_model_is_refused(tmp_path):
    write_checkpoint(tmp_path, config={"model_type": "bert", "hidden_size": 8})
    message = r"NV-Embed's, with 'text_config' and 'latent_attention_config', got \['hidden_size', 'model_type'\]"
    with pytest.raises(UnsupportedModelError, match=message):
        published_settings(tmp_path)


def test_missing_files_are_named(tmp_path):
    with pytest.raises(UnsupportedModelError, match="The folder must hold tokenizer.json, and .* does not. Download"):
        published_file(tmp_path, "tokenizer.json")
    (tmp_path / "pytorch_model.bin").write_bytes(b"a pickle")
    with pytest.raises(UnsupportedModelError, match="The folder must hold model.safetensors, and"):
        load_published(tmp_path, *empty_nv_embed(BODY, LATENTS))
    write_checkpoint(tmp_path)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(UnsupportedModelError, match="The folder must hold model-00002-of-00002.safetensors, and"):
        load_published(tmp_path, *empty_nv_embed(BODY, LATENTS))


@pytest.mark.parametrize("name", ["../model.safetensors", "/model.safetensors", "pytorch_model.bin"])
def test_weights_elsewhere_and_pickles_are_refused(tmp_path, name):
    write_checkpoint(tmp_path)
    index = {"weight_map": {"embedding_model.norm.weight": name}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    message = f"index.json (must name safetensors beside it, got|names the weights) '{name}'"
    with pytest.raises(UnsafeModelError, match=message):
        load_published(tmp_path, *empty_nv_embed(BODY, LATENTS))


def test_damaged_files_are_refused(tmp_path):
    write_checkpoint(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UnsafeModelError, match="config.json must be JSON, but it is damaged: "):
        published_settings(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(UnsupportedModelError, match=r"config.json must be NV-Embed's, .* got \[\]. Other models"):
        published_settings(tmp_path)
    shard = tmp_path / "model-00001-of-00002.safetensors"
    shard.write_bytes(shard.read_bytes()[:-10])
    with pytest.raises(UnsafeModelError, match="model-00001-of-00002.safetensors is damaged or cut short"):
        load_published(tmp_path, *empty_nv_embed(BODY, LATENTS))
