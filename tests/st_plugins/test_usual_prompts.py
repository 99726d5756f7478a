from types import SimpleNamespace

from st_plugins.usual_prompts import prompt_of, usual_name


def encoder(prompts, default=None):
    return SimpleNamespace(prompts=prompts, default_prompt_name=default)


def test_each_side_of_a_search_has_names_of_its_own():
    both = encoder({"query": "q: ", "passage": "p: ", "corpus": "c: "})
    assert prompt_of(both, "query") == "q: "
    assert prompt_of(both, "document") == "p: "
    assert prompt_of(both, None) == ""


def test_the_default_is_for_all_else():
    default = encoder({"query": "", "other": "o: "}, "other")
    assert prompt_of(default, "query") == ""  # it is there, and empty
    assert prompt_of(default, "document") == "o: "
    assert prompt_of(default, None) == "o: "


def test_the_first_name_there_is_counts():
    assert usual_name({"corpus": "c: ", "passage": "p: "}, "document") == "passage"
    assert usual_name({"corpus": "c: "}, "query") is None
    assert usual_name({"query": "q: "}, None) is None
