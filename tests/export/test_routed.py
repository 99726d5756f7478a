"""A Router is exported route by route, and OnnxEncoder sends texts where the Router sends them."""

import copy
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Router, StaticEmbedding
from tokenizers import Tokenizer

import st_plugins
from st_plugins.errors import ExportError, InputError, ManifestError, UnsupportedModelError
from st_plugins_export import OnnxEncoder, OnnxModule, check_parity, export_onnx

WIDTH = 32


def asymmetric(plain, **options):
    """Queries through a table of word vectors, documents through a transformer."""
    tokenizer = Tokenizer.from_str(plain.tokenizer.backend_tokenizer.to_str())
    query = [StaticEmbedding(tokenizer, embedding_dim=WIDTH)]
    router = Router(
        {"query": query, "document": list(plain.children())[:2]}, **{"default_route": "document", **options}
    )
    prompts = {"query": "find: ", "document": ""}
    return SentenceTransformer(modules=[router, Normalize()], device="cpu", prompts=prompts).eval()


@pytest.fixture(scope="module")
def routed(plain, tmp_path_factory):
    """Model, report, and folder, which is read only."""
    model = asymmetric(plain)
    folder = tmp_path_factory.mktemp("routed") / "out"
    return model, export_onnx(model, folder, show_progress=False), folder


def assert_close(found, expected):
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)


def test_queries_and_documents_go_where_the_router_sends_them(routed, texts):
    model, report, folder = routed
    assert [size.file for size in report.sizes] == ["query/onnx/model.onnx", "document/onnx/model.onnx"]
    assert [size.layer for size in report.sizes] == [0, 3]
    encoder = OnnxEncoder(folder)
    queries = [text for text in texts if text]
    assert_close(encoder.encode_query(queries), model.encode_query(queries))
    assert_close(encoder.encode_document(texts), model.encode_document(texts))
    assert_close(encoder.encode(texts), model.encode(texts))
    assert_close(encoder.encode_query(queries, prompt="a "), model.encode_query(queries, prompt="a "))
    assert not np.allclose(encoder.encode_query(queries), encoder.encode_document(queries), atol=0.1)
    assert encoder.fingerprint == st_plugins.fingerprint(model)
    assert check_parity(model, folder).max_difference <= 1e-5


def test_every_route_is_an_export_of_its_own(routed, texts):
    model, _, folder = routed
    names = {path.relative_to(folder).parts[0] for path in folder.rglob("*")}
    assert names == {"manifest.json", "query", "document"}
    for route in ("query", "document"):
        assert (folder / route / "tokenizer.json").is_file()
        assert (folder / route / "onnx" / "model.onnx").is_file()
    assert_close(OnnxEncoder(folder / "document").encode(texts), model.encode_document(texts, prompt=""))


def test_mappings_and_routes_of_other_names(plain, tmp_path):
    mappings = {("query", "text"): "fast", (None, "text"): "slow"}
    first = plain[0]
    router = Router({"fast": [first, Pooling(WIDTH, "cls")], "slow": [first, Pooling(WIDTH)]}, route_mappings=mappings)
    model = SentenceTransformer(modules=[router], device="cpu").eval()
    export_onnx(model, tmp_path / "out", show_progress=False)
    encoder = OnnxEncoder(tmp_path / "out")
    module = OnnxModule.as_sentence_transformer(tmp_path / "out")
    for name in ("encode", "encode_query", "encode_document"):
        assert_close(getattr(encoder, name)(["cats"]), getattr(model, name)(["cats"]))
        assert_close(getattr(module, name)(["cats"]), getattr(model, name)(["cats"]))


def test_inside_sentence_transformers_the_router_is_its_own(routed, texts, tmp_path):
    model, _, folder = routed
    onnx = OnnxModule.as_sentence_transformer(folder, threads=1)
    onnx.save_pretrained(str(tmp_path / "saved"))
    trusted = SentenceTransformer(str(tmp_path / "saved"), device="cpu", trust_remote_code=True)
    queries = [text for text in texts if text]
    for found in (onnx, st_plugins.load(tmp_path / "saved", device="cpu"), trusted):
        assert isinstance(found[0], Router)
        assert_close(found.encode_query(queries), model.encode_query(queries))
        assert_close(found.encode_document(texts), model.encode_document(texts))
        assert_close(found.encode(texts), model.encode(texts))
        assert_close(found.encode_query(queries, prompt="a "), model.encode_query(queries, prompt="a "))
        assert found.similarity_fn_name == model.similarity_fn_name
    assert st_plugins.fingerprint(trusted) == st_plugins.fingerprint(onnx)
    onnx[0].default_route = "query"
    assert st_plugins.fingerprint(trusted) != st_plugins.fingerprint(onnx)


def test_a_module_alone_has_no_routes(routed, texts):
    model, _, folder = routed
    with pytest.raises(
        UnsupportedModelError, match=r"has \['document', 'query'\]. Open all.*OnnxModule\(folder / 'doc"
    ):
        OnnxModule(folder)
    assert_close(
        OnnxModule.as_sentence_transformer(folder / "document").encode(texts), model.encode_document(texts, prompt="")
    )


def test_a_task_without_a_route_is_refused(plain, tmp_path):
    router = Router({"query": list(plain.children())[:2]})
    model = SentenceTransformer(modules=[router], device="cpu").eval()
    export_onnx(model, tmp_path / "out", show_progress=False)
    encoder = OnnxEncoder(tmp_path / "out")
    assert_close(encoder.encode("cats"), model.encode("cats"))
    with pytest.raises(InputError, match=r"no route for 'document', only \['query'\]"):
        encoder.encode_document("cats")


def test_an_earlier_export_is_replaced_and_other_files_are_not(routed, plain, tmp_path):
    model, _, folder = routed
    copied = shutil.copytree(folder, tmp_path / "copied")
    (copied / "query" / "notes.txt").write_text("mine")
    with pytest.raises(ExportError, match=r"holds 'query/notes\.txt', which the export did not write"):
        export_onnx(plain, copied, show_progress=False)
    (copied / "query" / "notes.txt").unlink()
    export_onnx(plain, copied, show_progress=False)
    assert not (copied / "query").exists()
    with pytest.raises(ManifestError, match=r"must hold the routes \['query', 'document'\], and holds \[\]"):
        check_parity(model, copied)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"default_route": None, "allow_empty_key": False}, r"must say where texts without a task go.*default_route"),
        ({}, "The route 'query' cannot be exported. The modules behind the first must be"),
        ({}, "The name of a route becomes the name of a folder.*got 'a b'"),
    ],
)
def test_routers_that_cannot_be_exported_are_refused_by_name(plain, tmp_path, options, message):
    model = asymmetric(plain, **options)
    if "behind" in message:
        model[0].sub_modules["query"].append(Pooling(WIDTH))
    if "a b" in message:
        model[0].sub_modules["a b"] = model[0].sub_modules["query"]
    with pytest.raises(UnsupportedModelError, match=message):
        export_onnx(model, tmp_path / "out", show_progress=False)
    assert list(tmp_path.iterdir()) == []


def test_sizes_are_of_models_not_of_routers(routed, tmp_path):
    with pytest.raises(ExportError, match=r"Only elastic models have sizes"):
        export_onnx(routed[0], tmp_path / "out", sizes=[(1, 8)], show_progress=False)
    assert list(tmp_path.iterdir()) == []


def test_the_manifest_says_who_goes_where(routed):
    model, _, folder = routed
    entries = json.loads((folder / "manifest.json").read_text())
    assert set(entries["routes"]) == {"query", "document"}
    assert entries["tasks"] == {"query": "query", "document": "document"}
    assert entries["default_route"] == "document"
    assert entries["fingerprint"] == st_plugins.fingerprint(model)


@pytest.mark.slow
def test_every_route_has_its_sizes_and_exits(leaving, texts, tmp_path):
    """Also where sizes and exits come from iterators, which end; and texts leave where their own route says."""
    other = copy.deepcopy(leaving)
    other[0].add_exit_policy(replace(other[0].exit_policy("gate"), threshold=-1.0))  # earlier
    behind = list(leaving.children())[1:]
    router = Router({"query": [other[0], *behind], "document": [leaving[0], *behind]}, default_route="document")
    model = SentenceTransformer(modules=[router], device="cpu").eval()
    options = {"sizes": iter([(2, 16)]), "exits": iter(["gate"]), "show_progress": False}
    report = export_onnx(model, tmp_path / "out", **options)
    assert [(len(report.sizes), len(report.exits))] == [(4, 2)]
    encoder = OnnxEncoder(tmp_path / "out")
    vectors, layers = encoder.for_task("query").encode_with_exits(texts, exit="gate")
    assert layers.tolist() == st_plugins.exits.encode_with_exits(other, texts, exit="gate")[1].tolist()
    assert_close(encoder.encode_query(texts, exit="gate"), vectors)
    expected, left = st_plugins.exits.encode_with_exits(leaving, texts, exit="gate")
    assert (left > layers).any()
    for same in (encoder, encoder.for_task("document")):
        vectors, layers = same.encode_with_exits(texts, exit="gate")
        assert_close(vectors, expected)
        assert layers.tolist() == left.tolist()
    assert OnnxEncoder(tmp_path / "out" / "query").for_task("query").exits == ("gate",)
