import torch

from st_plugins.model_settings import free_name, with_settings_of


def test_settings_are_kept_and_are_its_own(plain):
    plain.prompts = {"query": "the ", "document": ""}
    plain.default_prompt_name = "query"
    plain.similarity_fn_name = "dot"
    plain.truncate_dim = 8
    plain.module_kwargs = {"0": ["layer"]}
    plain.train()
    modules = dict(list(plain.named_children())[:2])
    model = with_settings_of(plain, modules)
    assert list(model.children()) == list(modules.values())
    assert (model.prompts, model.default_prompt_name) == (plain.prompts, "query")
    assert (model.similarity_fn_name, model.truncate_dim, model.training) == ("dot", 8, True)
    assert model.module_kwargs == {"0": ["layer"]}
    assert model.device == plain.device
    model.prompts["query"] = "a "
    model.module_kwargs["0"].append("exit")
    assert plain.prompts["query"] == "the "
    assert plain.module_kwargs == {"0": ["layer"]}
    assert not with_settings_of(plain.eval(), modules).training


def test_the_mode_of_each_module_is_left_alone(plain):
    plain.train()
    plain[0].eval()
    model = with_settings_of(plain, {**dict(plain.named_children()), "3": torch.nn.Dropout()})
    assert [module.training for module in (model, *model)] == [True, False, True, True, True]
    plain.eval()
    model = with_settings_of(plain, {**dict(plain.named_children()), "3": torch.nn.Dropout()})
    assert not any(module.training for module in model.modules())


def test_a_new_module_takes_no_name_that_is_taken():
    assert free_name([]) == "0"
    assert free_name(["transformer", "pooling"]) == "2"
    assert free_name({"0": 1, "1": 2, "3": 3}) == "4"
