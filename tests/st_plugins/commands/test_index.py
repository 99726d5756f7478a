import json

from langchain_st_plugins import ElasticEmbeddings, ElasticVectorStore
from st_plugins.commands.program import main


def test_texts_become_a_store_that_langchain_opens(folder, capsys):
    model, out = str(folder / "model"), str(folder / "store")
    assert main(["index", str(folder / "texts.txt"), out, "--model", model, "--device", "cpu"]) == 0
    assert capsys.readouterr().out == f"{out}: 2 documents, 2 of them new\n"
    store = ElasticVectorStore.load_local(out, ElasticEmbeddings(model=model, device="cpu"))
    assert [document.page_content for document in store.get_by_ids(["texts.txt:0", "texts.txt:2"])] == [
        "the cat",
        "a dog",
    ]


def test_more_texts_are_added_and_old_ids_replaced(folder, capsys):
    model, out = str(folder / "model"), str(folder / "store")
    lines = [{"key": "a", "body": "the cat"}, {"key": "b", "body": "a dog"}]
    (folder / "t.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    arguments = ["index", str(folder / "t.jsonl"), out, "--model", model, "--text", "body", "--id", "key", "--json"]
    assert main(arguments) == 0
    (folder / "t.jsonl").write_text('{"key": "b", "body": "a red dog"}\n{"key": "c", "body": "it"}\n')
    assert main(arguments) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (found["documents"], found["new"]) == (3, 1)
    (folder / "t.jsonl").write_text('{"key": "b"}\n')
    assert main(arguments) == 1
    assert "cannot be used: no text in column 'body': NoneType. Mend the file." in capsys.readouterr().err
