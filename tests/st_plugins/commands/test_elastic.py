import json

import st_plugins
from st_plugins.commands.program import main


def test_texts_map_every_layer(plain, folder, capsys):
    plain.save_pretrained(str(folder / "plain"))
    out = folder / "out"
    assert main(["elastic", str(folder / "plain"), str(out), "--texts", str(folder / "queries.txt")]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"{out}: sizes 1x16, 2x16, 3x16, 4x16"
    assert st_plugins.load(out).encode("the cat", layer=1).shape == (16,)


def test_pairs_train_the_sizes_that_are_named(folder, capsys):
    out = folder / "out"
    arguments = ["--pairs", str(folder / "pairs.jsonl"), "--size", "2x8", "--size", "4x8", "--batch-size", "4"]
    options = ["--mini-batch-size", "2", "--learning-rate", "0.001", "--device", "cpu", "--json"]
    assert main(["elastic", str(folder / "model"), str(out), *arguments, *options]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [2, 8] in found["sizes"]
    assert [4, 8] in found["sizes"]
    trained = st_plugins.load(out)
    assert found["fingerprint"] == st_plugins.fingerprint(trained)
    assert found["fingerprint"] != st_plugins.fingerprint(st_plugins.load(folder / "model"))


def test_what_cannot_train_is_refused_first(folder, tmp_path, capsys):
    model, out = str(folder / "model"), str(folder / "out")
    (tmp_path / "one.csv").write_text("anchor\na\n")
    cases = [
        ([], "error: Either --texts or --pairs must be given, got neither: an untrained model cannot be cut well."),
        (["--texts", "t.txt", "--size", "2x8"], "error: --size is what --pairs train, and there are none."),
        (
            ["--pairs", str(tmp_path / "one.csv")],
            "must have two columns or more, anchor and positive first, got 'anchor'",
        ),
    ]
    for arguments, message in cases:
        assert main(["elastic", model, out, *arguments]) == 1
        assert message in capsys.readouterr().err
    assert not (folder / "out").exists()
