from st_plugins.model_settings import with_settings_of


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
