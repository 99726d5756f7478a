import json
import re
import shutil
import subprocess

import pytest

import st_plugins
from st_plugins.errors import InputError
from st_plugins.evaluation import write_report_page
from st_plugins.evaluation.grid import GridPoint
from st_plugins.exits import Certificate, ExitPolicy, Saturation
from st_plugins.exits.curves import exit_curves
from st_plugins_export import export_onnx

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
POINTS = [GridPoint(k, k, d, s, c) for k, d, s, c in
          [(2, 8, 0.60, 0.5), (2, 16, 0.70, 0.5), (4, 8, 0.78, 1.0), (4, 16, 0.80, 1.0)]]  # fmt: skip
# What a reader does: moves over a size, takes another share, clicks; what the page then shows goes into <pre id=seen>.
READER = """
<script>
const seen = {{ errors: [] }};
addEventListener("error", event => seen.errors.push(event.message));
addEventListener("load", () => {{
  const cells = [...document.querySelectorAll("#grid td:not(.name)")];
  seen.cells = cells.map(cell => cell.textContent);
  seen.first = document.getElementById("call").textContent;
  cells[0].dispatchEvent(new MouseEvent("mousemove", {{ clientX: 5, clientY: 5 }}));
  seen.tip = document.getElementById("tip").hidden ? "" : document.getElementById("tip").textContent;
  cells[0].dispatchEvent(new MouseEvent("mouseleave"));
  seen.gone = document.getElementById("tip").hidden;
  const picker = document.getElementById("picker");
  picker.value = 80;
  picker.dispatchEvent(new Event("input"));
  seen.picked = document.getElementById("call").textContent;
  seen.chosen = document.querySelectorAll("#grid td.chosen").length;
  cells.at(-1).click();
  seen.clicked = document.getElementById("call").textContent;
  seen.sections = [...document.querySelectorAll("section:not([hidden]) h2")].map(one => one.textContent);
  seen.bytes = document.getElementById("bytes").textContent;
  const shown = {{ id: "seen", textContent: JSON.stringify(seen) }};
  document.body.append(Object.assign(document.createElement("pre"), shown));
}});
</script>
"""


@pytest.fixture
def leaving(plain):
    model = st_plugins.elastic(plain, sizes=[(2, 8), (2, 16), (3, 16), (4, 16)])
    proof = Certificate("cosine", 0.1, 0.1, 100, "betting", 0.01, 0.02, 3.0, (0.5, 0.0, 0.5), "", "")
    model[0].add_exit_policy(ExitPolicy("mine", Saturation(), 0.98, (2, 3, 4), None, proof))
    return model


def facts_of(page):
    return json.loads(re.search(r'application/json">(.*?)</script>', page.read_text()).group(1))


def test_facts_are_those_of_the_model(leaving, tmp_path):
    page = tmp_path / "report.html"
    write_report_page(leaving, page, name="</script><b>x", points=POINTS, metric="nDCG@10")
    facts = facts_of(page)
    assert facts["name"] == "</script><b>x"
    assert facts["points"][1] == {"row": 2, "dim": 16, "score": 0.70, "cost": 0.5}
    assert (facts["policies"][0]["exit_rates"], facts["width"], facts["row_name"]) == ([0.5, 0.0, 0.5], 16, "layer")
    assert st_plugins.fingerprint(leaving) in facts["made"]
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_it_asks_for_nothing_from_elsewhere(leaving, tmp_path):
    write_report_page(leaving, tmp_path / "report.html", name="x")
    content = (tmp_path / "report.html").read_text().replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?://|src=|@import|url\(", content)


def test_query_layers_are_shown_against_the_deepest_documents(leaving, tmp_path):
    points = [GridPoint(2, 2, 8, 0.1, 0.5), GridPoint(2, 4, 8, 0.2, 0.5), GridPoint(4, 4, 8, 0.3, 1.0)]
    write_report_page(leaving, tmp_path / "report.html", name="x", points=points)
    facts = facts_of(tmp_path / "report.html")
    assert [(point["row"], point["score"]) for point in facts["points"]] == [(2, 0.2), (4, 0.3)]
    assert facts["row_name"] == "query layer"


def test_a_score_that_is_no_number_is_left_out(leaving, tmp_path):
    points = [*POINTS, GridPoint(1, 1, 8, float("nan"), 0.2)]
    write_report_page(leaving, tmp_path / "page.html", name="tiny", points=points)
    assert [point["row"] for point in facts_of(tmp_path / "page.html")["points"]] == [2, 2, 4, 4]


def test_an_export_shows_its_report(leaving, plain, tmp_path):
    export_onnx(leaving, tmp_path / "onnx", sizes=[(2, 8)], exits=["mine"], show_progress=False)
    write_report_page(leaving, tmp_path / "report.html", name="x", export=tmp_path / "onnx")
    graphs = facts_of(tmp_path / "report.html")["graphs"]
    assert [graph["size"] for graph in graphs] == ["4x16", "2x8", "2-4x16"]
    with pytest.raises(InputError, match="must be an export with report.json, and has none. Export the model again."):
        write_report_page(plain, tmp_path / "report.html", name="x", export=tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium on the PATH")
def test_a_browser_shows_it_and_answers(leaving, texts, tmp_path):
    page = tmp_path / "report.html"
    curves = exit_curves(leaving, texts)
    write_report_page(leaving, page, name="tiny", points=POINTS, metric="nDCG@10", curves=curves)
    page.write_text(page.read_text().replace("<style>", READER.format() + "<style>", 1))
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", page.as_uri()]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    seen = json.loads(re.search(r'<pre id="seen">(.*?)</pre>', shown, re.DOTALL).group(1).replace("&amp;", "&"))
    assert seen["errors"] == []
    assert seen["cells"] == ["60.0", "70.0", "78.0", "80.0"]
    assert seen["first"].startswith("model.encode(texts, layer=4, truncate_dim=16)")  # 98 % of the best
    assert seen["picked"].startswith("model.encode(texts, layer=2, truncate_dim=16)")  # 80 % of it
    assert seen["clicked"].startswith("model.encode(texts, layer=4, truncate_dim=16)")
    assert "layer 2, dim 8" in seen["tip"]
    assert (seen["gone"], seen["chosen"]) == (True, 1)
    assert seen["sections"] == ["Every size", "Quality and cost", "Early exits", "Size of an index"]
    assert "1,000,000 documents, dim 16" in seen["bytes"]
