import copy
from collections import OrderedDict

import numpy as np
import pytest
import torch
import transformers
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import losses
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, Router, StaticEmbedding

import st_plugins
from st_plugins.errors import SizeError, UnsupportedModelError
from st_plugins.exit_criteria import Saturation
from st_plugins.exit_policies import ExitPolicy
from st_plugins.modules import Truncation


def test_at_full_size_nothing_changes(plain, texts):
    elastic = st_plugins.elastic(plain)
    assert np.array_equal(elastic.encode(texts), plain.encode(texts))
    assert type(plain[0]).__name__ == "Transformer"
    assert len(plain) == 3


def test_weights_are_shared_with_the_model_it_came_from(plain):
    elastic = st_plugins.elastic(plain)
    assert {p.data_ptr() for p in elastic.parameters()} == {p.data_ptr() for p in plain.parameters()}


def test_settings_are_kept(plain):
    plain.prompts = {"query": "the ", "document": ""}
    plain.default_prompt_name = "query"
    plain.similarity_fn_name = "dot"
    plain.truncate_dim = 8
    plain.train()
    elastic = st_plugins.elastic(plain)
    assert (elastic.prompts, elastic.default_prompt_name) == (plain.prompts, "query")
    assert (elastic.similarity_fn_name, elastic.truncate_dim, elastic.training) == ("dot", 8, True)


def test_sizes_trained_elsewhere_are_allowed(plain, texts):
    elastic = st_plugins.elastic(plain, sizes=[(4, 8), (2, 8)])
    assert elastic.encode(texts, layer=2, truncate_dim=8).shape == (5, 8)


@pytest.mark.parametrize("names", [("0", "1", "3"), ("t", "p", "3"), ("0", "1", "7")])
def test_no_module_is_lost_to_a_name_that_is_taken(plain, texts, names):
    named = SentenceTransformer(modules=OrderedDict(zip(names, plain, strict=True)), device="cpu").eval()
    elastic = st_plugins.elastic(named)
    assert np.array_equal(elastic.encode(texts), plain.encode(texts))
    baked = st_plugins.bake(elastic, layer=2, dim=8)
    assert [type(module).__name__ for module in baked][2:] == ["Normalize", "Dense", "Normalize"]
    assert list(dict(baked.named_children()))[:3] == list(names)


def test_too_wide_a_size_is_refused(plain):
    with pytest.raises(SizeError, match=r"dim must be at most 16, the embedding dimension, got size \(4, 17\)"):
        st_plugins.elastic(plain, sizes=[(4, 17)])


def test_an_elastic_model_is_not_made_elastic_twice(model):
    with pytest.raises(UnsupportedModelError, match="must not be elastic yet"):
        st_plugins.elastic(model)


def test_a_model_without_layers_is_refused(tokenizer):
    static = SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=4)], device="cpu")
    with pytest.raises(UnsupportedModelError, match="must be sentence-transformers' Transformer, got StaticEmbedding"):
        st_plugins.elastic(static)


def test_a_model_with_two_ways_is_refused_by_name(plain):
    modules = list(plain.children())
    router = SentenceTransformer(modules=[Router.for_query_document(modules, modules)], device="cpu")
    with pytest.raises(UnsupportedModelError, match="must be sentence-transformers' Transformer, got Router"):
        st_plugins.elastic(router)


@pytest.mark.parametrize(("layer", "dim"), [(2, 8), (2, None), (None, 8), (None, None), (4, 16), (1, 1)])
def test_a_baked_model_equals_its_size_and_loads_without_us(model, texts, tmp_path, layer, dim):
    baked = st_plugins.bake(model, layer=layer, dim=dim)
    expected = model.encode(texts, layer=layer, truncate_dim=dim, allow_untrained=True)
    assert np.allclose(baked.encode(texts), expected, atol=1e-6)
    baked.save_pretrained(tmp_path)
    assert "st_plugins" not in (tmp_path / "modules.json").read_text()
    again = SentenceTransformer(str(tmp_path))
    assert np.array_equal(again.encode(texts), baked.encode(texts))
    assert again[0].auto_model.config.num_hidden_layers == (layer or 4)


def test_a_baked_model_shares_nothing(model, texts):
    before = model.encode(texts)
    baked = st_plugins.bake(model, layer=2)
    with torch.no_grad():
        for parameter in baked.parameters():
            parameter.zero_()
    assert np.array_equal(model.encode(texts), before)


@pytest.mark.skipif(transformers.__version__ < "5", reason="transformers 4 chooses BERT's attention when it is built")
def test_the_attention_of_a_baked_model_can_be_changed(model, texts):
    baked = st_plugins.bake(model, layer=2)
    expected = baked.encode(texts)
    baked[0].auto_model.set_attn_implementation("eager")
    block = baked[0].auto_model.encoder.layer[0]
    assert block.attention.self.config._attn_implementation == "eager"
    assert np.allclose(baked.encode(texts), expected, atol=1e-6)


def test_a_baked_model_keeps_a_fixed_truncation(plain, texts):
    elastic = st_plugins.elastic(plain)
    elastic[-1].dim = 6
    baked = st_plugins.bake(elastic)
    assert baked.get_embedding_dimension() == 6
    assert np.allclose(baked.encode(texts), elastic.encode(texts), atol=1e-6)


def test_a_baked_model_keeps_the_default_truncate_dim_as_unit_vectors(model, texts):
    model.truncate_dim = 6
    baked = st_plugins.bake(model)
    assert baked.truncate_dim is None
    assert np.allclose(np.linalg.norm(baked.encode(texts), axis=1), 1, atol=1e-6)
    assert np.allclose(baked.encode(texts), model.encode(texts, allow_untrained=True), atol=1e-6)


def test_models_with_a_dense_module_are_cut_behind_it(plain, texts):
    torch.manual_seed(1)
    dense = SentenceTransformer(modules=[plain[0], Pooling(16, "cls"), Dense(16, 12), Normalize()], device="cpu")
    elastic = st_plugins.elastic(dense)
    assert elastic.get_embedding_dimension() == 12
    expected = elastic.encode(texts, layer=3, truncate_dim=5, allow_untrained=True)
    assert np.allclose(st_plugins.bake(elastic, layer=3, dim=5).encode(texts), expected, atol=1e-6)


def test_a_model_that_is_not_normalised_stays_so_at_full_size(plain, texts):
    raw = SentenceTransformer(modules=[plain[0], Pooling(16, "mean")], device="cpu")
    elastic = st_plugins.elastic(raw)
    assert np.array_equal(elastic.encode(texts), raw.encode(texts))
    assert np.array_equal(st_plugins.bake(elastic).encode(texts), raw.encode(texts))
    cut = elastic.encode(texts, truncate_dim=4, allow_untrained=True)
    assert np.allclose(np.linalg.norm(cut, axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("dim", [0, 17, 2.0, True])
def test_baking_a_dim_that_does_not_exist_is_refused(model, dim):
    with pytest.raises(SizeError, match=r"dim must be an integer from 1 to 16 \(the embedding dimension\), got"):
        st_plugins.bake(model, dim=dim)


def test_baking_a_layer_that_does_not_exist_is_refused(model):
    with pytest.raises(SizeError, match="layer must be an integer from 1 to 4"):
        st_plugins.bake(model, layer=5)


def test_baking_a_plain_model_is_refused(plain):
    with pytest.raises(
        UnsupportedModelError, match="model for bake must be elastic, got one that starts with Transformer"
    ):
        st_plugins.bake(plain)


def test_the_real_model_keeps_its_vectors_and_bakes_exactly(minilm, texts):
    elastic = st_plugins.elastic(minilm)
    assert np.array_equal(elastic.encode(texts), minilm.encode(texts))
    baked = st_plugins.bake(elastic, layer=3, dim=128)
    expected = elastic.encode(texts, layer=3, truncate_dim=128, allow_untrained=True)
    assert np.allclose(baked.encode(texts), expected, atol=1e-6)
    assert sum(p.numel() for p in baked.parameters()) < sum(p.numel() for p in minilm.parameters())


def test_an_elastic_model_survives_a_deep_copy(model, texts):
    assert isinstance(model[-1], Truncation)
    assert np.array_equal(copy.deepcopy(model).encode(texts), model.encode(texts))


def test_a_baked_model_has_no_exits(model, texts, tmp_path):
    model[0].add_sizes([(1, 16), (2, 16)])
    model[0].add_exit_policy(ExitPolicy("mine", Saturation(), 0.5, (1, 2, 4)))
    baked = st_plugins.bake(model, layer=2)
    assert not hasattr(baked[0], "exit_policies")
    baked.save_pretrained(tmp_path)
    assert "exit" not in (tmp_path / "sentence_bert_config.json").read_text()
    assert np.allclose(SentenceTransformer(str(tmp_path)).encode(texts), model.encode(texts, layer=2), atol=1e-6)


def test_a_model_that_the_hosts_adaptive_layer_loss_has_trained_is_cut_like_any_other(plain, texts):
    loss = losses.AdaptiveLayerLoss(plain, losses.MultipleNegativesRankingLoss(plain))
    loss([plain.preprocess(texts), plain.preprocess(texts)], None)
    assert "forward" in plain[0].__dict__  # what this test is about: it stays behind, bound to the plain module
    model = st_plugins.elastic(plain)
    assert model.encode(texts, layer=2, allow_untrained=True) == pytest.approx(
        st_plugins.bake(model, layer=2).encode(texts), abs=1e-6
    )
    assert abs(model.encode(texts, layer=2, allow_untrained=True) - model.encode(texts)).max() > 1e-3


def test_a_first_module_with_a_forward_of_its_own_is_refused(plain):
    plain[0].forward = lambda features: features
    with pytest.raises(UnsupportedModelError, match="forward of the first module must be its class's own, got <func"):
        st_plugins.elastic(plain)
