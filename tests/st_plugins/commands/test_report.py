import json
import re

from st_plugins.commands.program import main


def test_the_page_has_what_was_measured(folder, capsys):
    (folder / "sts.csv").write_text("sentence1,sentence2,score\nthe cat,a cat,1\nthe cat,a dog,0.5\nslow,fast,0\n")
    page = folder / "report.html"
    arguments = ["--pairs", str(folder / "sts.csv"), "--texts", str(folder / "queries.txt"), "--name", "mine"]
    assert main(["report", str(folder / "model"), str(page), *arguments]) == 0
    assert capsys.readouterr().out == f"{page}: open it in a browser\n"
    facts = json.loads(re.search(r'application/json">(.*?)</script>', page.read_text()).group(1))
    assert (facts["name"], facts["metric"], len(facts["points"])) == ("mine", "spearman_cosine", 6)
    assert [layer for layer, _ in facts["curves"]["static"]] == [2.0, 3.0, 4.0]


def test_two_sets_are_refused(folder, capsys):
    arguments = ["report", str(folder / "model"), "r.html", "--pairs", "a", "--retrieval", "b"]
    assert main(arguments) == 1
    assert "At most one of --pairs and --retrieval can be given, got both." in capsys.readouterr().err
