import json

from st_plugins.commands.program import main


def test_the_nearest_documents_come_first(folder, capsys):
    model, out = str(folder / "model"), str(folder / "store")
    (folder / "long.txt").write_text("the cat\n" + "slow " * 30 + "\n")
    assert main(["index", str(folder / "long.txt"), out, "--model", model]) == 0
    capsys.readouterr()
    assert main(["search", out, "the cat", "--model", model, "-k", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "1.0000  long.txt:0  the cat"
    assert lines[1].endswith("slow sl...")
    assert main(["search", out, "the cat", "--model", model, "--layer", "2", "--dim", "8", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["id"] for row in rows} == {"long.txt:0", "long.txt:1"}
    assert rows[0]["score"] >= rows[1]["score"]


def test_another_model_is_refused(folder, plain, capsys):
    model, out = str(folder / "model"), str(folder / "store")
    assert main(["index", str(folder / "texts.txt"), out, "--model", model]) == 0
    assert main(["bake", model, str(folder / "baked"), "--size", "2x16"]) == 0
    assert main(["search", out, "the cat", "--model", str(folder / "baked")]) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: ")
