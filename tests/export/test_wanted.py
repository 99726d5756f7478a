"""What cannot be exported is refused by name, before any work."""

import copy
from dataclasses import replace

import pytest
import torch
import transformers
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

import st_plugins
from st_plugins.errors import ExitError, ExportError, SizeError, UnsupportedModelError, UntrainedSizeError
from st_plugins.exits import ExitPolicy, Saturation
from st_plugins.modules import MultiLayerPooling
from st_plugins.weight_digests import weights_digest
from st_plugins_export import export_onnx
from st_plugins_export.wanted import trained_dims, wanted_exits, wanted_sizes


def test_the_full_size_comes_first_and_each_once(elastic):
    assert wanted_sizes(elastic, [(1, 8), (3, 32), (1, 8)]) == [(3, 32), (1, 8)]
    with pytest.raises(SizeError, match="layer must be an integer from 1 to 3"):
        wanted_sizes(elastic, [(4, 8)])


def test_policies_come_once_and_the_graph_that_is_told_last(leaving):
    found = wanted_exits(leaving, ["gate", "saturation", "gate"], layer_per_text=True)
    assert [(wanted.name, wanted.layers) for wanted in found] == [
        ("gate", (1, 2, 3)),
        ("saturation", (1, 2, 3)),
        (None, (1, 2, 3)),
    ]
    assert wanted_exits(leaving, [], layer_per_text=False) == []


def test_an_unknown_policy_is_refused_with_those_there_are(leaving, tmp_path):
    with pytest.raises(ExitError, match=r"a policy of this model, \['gate', 'saturation'\], got 'fast'"):
        export_onnx(leaving, tmp_path / "out", exits=["fast"], show_progress=False)
    assert not (tmp_path / "out").exists()


def test_one_name_is_no_list_of_names(leaving):
    with pytest.raises(ExitError, match=r"list of names of policies, got 'gate'. Write exits=\['gate'\]"):
        wanted_exits(leaving, "gate", layer_per_text=False)


def test_a_cosine_is_no_name(leaving):
    with pytest.raises(ExitError, match=r"names of policies .*\['gate', 'saturation'\], got 0\.98.*add_exit_policy"):
        wanted_exits(leaving, [0.98], layer_per_text=False)


def test_a_policy_of_other_weights_is_refused(leaving):
    model = copy.deepcopy(leaving)
    policy = replace(model[0].exit_policies["gate"], weights=weights_digest(model[0].model))
    model[0].add_exit_policy(policy)
    assert wanted_exits(model, ["gate"], layer_per_text=False)[0].policy == policy
    with torch.no_grad():
        model[0].model.encoder.layer[0].output.dense.weight.mul_(1.01)
    with pytest.raises(ExitError, match="'gate' must be exported with the weights it was calibrated for"):
        wanted_exits(model, ["gate"], layer_per_text=False)


def test_layers_that_were_not_trained_are_refused(plain, leaving):
    shallow = st_plugins.elastic(plain, sizes=[(1, 16)])
    shallow[0].add_exit_policy(leaving[0].exit_policies["saturation"])
    with pytest.raises(UntrainedSizeError, match=r"layer must be one the model was trained for, \[1, 3\], got 2"):
        wanted_exits(shallow, ["saturation"], layer_per_text=False)
    with pytest.raises(UntrainedSizeError, match="trained at layers below 3, this one was trained at none"):
        wanted_exits(st_plugins.elastic(plain), [], layer_per_text=True)


def test_a_plain_model_has_no_exits(plain):
    for names, told in ((["gate"], False), ([], True)):
        with pytest.raises(ExportError, match="Only elastic models have exits, got .* Wrap it first"):
            wanted_exits(plain, names, layer_per_text=told)


@pytest.mark.parametrize("name", ["../gate", "a b", "a/b", "a\\b", "a\n"])
def test_a_name_that_is_none_for_a_file_is_refused(leaving, name):
    model = copy.deepcopy(leaving)
    model[0].add_exit_policy(replace(model[0].exit_policies["gate"], name=name))
    with pytest.raises(ExportError, match="becomes part of a file name.*dataclasses.replace"):
        wanted_exits(model, [name], layer_per_text=False)


def test_shared_blocks_are_refused(tmp_path, save_tokenizer):
    config = transformers.AlbertConfig(
        vocab_size=80, embedding_size=8, hidden_size=32, num_hidden_layers=3, num_attention_heads=2
    )
    transformers.AlbertModel(config).save_pretrained(tmp_path)
    save_tokenizer(tmp_path, token_types=False)
    plain = SentenceTransformer(modules=[Transformer(str(tmp_path)), Pooling(32)], device="cpu")
    model = st_plugins.elastic(plain, sizes=[(1, 16), (2, 16)])
    model[0].add_exit_policy(ExitPolicy("mine", Saturation(), 0.5, (1, 2, 3)))
    with pytest.raises(UnsupportedModelError, match="AlbertModel applies one block many times.*sizes="):
        wanted_exits(model, ["mine"], layer_per_text=False)


def test_a_pooling_over_layers_is_refused(leaving):
    model = copy.deepcopy(leaving)
    model[1] = MultiLayerPooling(32, num_layers=4, num_queries=2)
    with pytest.raises(UnsupportedModelError, match="MultiLayerPooling reads many layers"):
        wanted_exits(model, ["gate"], layer_per_text=False)


def test_dims_must_be_trained_at_every_layer(plain, elastic):
    assert trained_dims(elastic, [2], 32) == (8, 16)
    assert trained_dims(elastic, [2, 3], 32) == (16,)
    assert trained_dims(elastic, [1, 2], 32) == ()
    assert trained_dims(elastic, [2], 16) == (8,)
    assert trained_dims(plain, [3], 32) == ()
