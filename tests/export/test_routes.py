"""The manifest above the routes of a Router: complete and unchanged, or refused."""

import json

import pytest

from st_plugins.errors import InputError, ManifestError, UnsafeModelError
from st_plugins_export.layout import read_manifest
from st_plugins_export.routes import read_routes, write_routes


@pytest.fixture
def folder(tmp_path):
    for name in ("query", "document"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").write_text(f'"{name}"')
    write_routes(tmp_path, ["query", "document"], tasks={"query": "query"}, default_route="document", fingerprint="f")
    return tmp_path


def test_routes_survive_writing_and_reading(folder):
    routes = read_routes(folder)
    assert list(routes.routes) == ["query", "document"]
    assert (routes.tasks, routes.default_route, routes.fingerprint) == ({"query": "query"}, "document", "f")
    assert routes.route_of("query") == "query"
    with pytest.raises(InputError, match=r"no route for 'document', only \['document', 'query'\]"):
        routes.route_of("document")


def test_the_folder_of_a_router_is_no_single_export(folder, exported):
    with pytest.raises(ManifestError, match=r"the export of a Router, .* \['query', 'document'\]. Open one"):
        read_manifest(folder)
    assert read_routes(exported) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda entries: entries.pop("tasks"), "must have exactly the entries .* for Routes"),
        (lambda entries: entries.update(routes=["query"]), "for 'routes'"),
        (lambda entries: entries["routes"].update(query=3), "has 3 for 'routes'"),
        (lambda entries: entries.update(default_route=None), "has None for 'default_route'"),
        (lambda entries: entries.update(default_route="../up"), r"must list the route '\.\./up'"),
        (lambda entries: entries["tasks"].update(query="other"), "must list the route 'other'"),
        (lambda entries: entries.update(fingerprint=1), "has 1 for 'fingerprint'"),
    ],
)
def test_a_manifest_that_lies_is_refused(folder, change, message):
    path = folder / "manifest.json"
    entries = json.loads(path.read_text())
    change(entries)
    path.write_text(json.dumps(entries))
    with pytest.raises(ManifestError, match=message):
        read_routes(folder)


def test_routes_that_were_changed_or_lead_away_are_refused(folder, tmp_path_factory):
    (folder / "query" / "manifest.json").write_text("changed")
    with pytest.raises(ManifestError, match=r"query/manifest\.json is not the file that was exported"):
        read_routes(folder)
    (folder / "query" / "manifest.json").unlink()
    with pytest.raises(ManifestError, match="is missing"):
        read_routes(folder)
    (folder / "query").rmdir()
    (folder / "query").symlink_to(tmp_path_factory.mktemp("outside"))
    with pytest.raises(UnsafeModelError, match="query is a symbolic link"):
        read_routes(folder)
    path = folder / "manifest.json"
    path.write_text(path.read_text().replace('"query": "', '"../query": "', 1))
    entries = json.loads(path.read_text())
    entries["tasks"] = {}
    path.write_text(json.dumps(entries))
    with pytest.raises(UnsafeModelError, match="must lie inside its folder"):
        read_routes(folder)
