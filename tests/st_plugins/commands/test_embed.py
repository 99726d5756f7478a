import json

import pyarrow.parquet as pq

from st_plugins.commands.program import main


def test_files_become_parquet(folder, capsys):
    arguments = [
        "embed",
        str(folder / "texts.txt"),
        str(folder / "out"),
        "--model",
        str(folder / "model"),
        "--device",
        "cpu",
    ]
    assert main(arguments) == 0
    shown = capsys.readouterr()
    assert shown.out.startswith("3 rows, parts: 1 (0 were there already), 16 dimensions\n1 without a vector, 0 cut")
    assert "3/3" in shown.err
    assert main([*arguments, "--json"]) == 0
    shown = capsys.readouterr()
    report = json.loads(shown.out)
    assert (report["resumed"], report["folder"], report["parts"][0]["errors"]) == (1, str(folder / "out"), 1)
    assert "Rows" not in shown.err
    assert pq.read_table(folder / "out" / report["parts"][0]["part"]).column_names == ["id", "embedding", "error"]


def test_every_option_reaches_the_job(folder, monkeypatch):
    asked = {}

    def embed(source, output, settings, **options):
        asked.update(options, source=source, output=output, settings=settings)
        raise KeyboardInterrupt

    monkeypatch.setattr("st_plugins.commands.embed.embed_files", embed)
    options = (
        "--text body --id key --layer 3 --dim 8 --exit fast --task query --backend onnx --precision int8 --device cuda "
        "--threads 2 --shard-rows 9 --engine ray --workers 4"
    )
    assert main(["embed", "in", "out", "--model", "m", *options.split()]) == 130
    settings = asked.pop("settings")
    assert asked == {
        "source": "in", "output": "out", "text": "body", "id": "key", "shard_rows": 9, "engine": "ray", "workers": 4,
        "show_progress": True,
    }  # fmt: skip
    assert (settings.model, settings.layer, settings.truncate_dim, settings.exit, settings.task) == (
        "m",
        3,
        8,
        "fast",
        "query",
    )
    assert (settings.backend, settings.precision, settings.device, settings.threads) == ("onnx", "int8", "cuda", 2)


def test_help_has_examples(capsys):
    assert main(["embed", "--help"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("Usage: st-plugins embed ")
    assert "\n    st-plugins embed 'docs/*.jsonl' vectors/ --model minilm-elastic --text body --layer 3\n" in shown
