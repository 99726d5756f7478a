"""Two exports that consumers open: the real MiniLM, and a model that no consumer can pool by itself."""

from types import SimpleNamespace

import numpy as np
import pytest
from sentence_transformers.sentence_transformer.modules import Dense, Normalize

from st_plugins_export import export_onnx
from st_plugins_export.precisions import PRECISIONS


@pytest.fixture(scope="session")
def consumer_texts():
    """``short`` ones, within the limit of both models, and a ``long`` one beyond it."""
    short = [
        "a",
        "How do I sort a list?",
        "",
        "naïve café, Привет, 東京, 🌍",
        '  spaces\tand\n"quotes"',
        "cats sleep",
        "the weather is lovely",
    ]
    return SimpleNamespace(short=short, long="word " * 600)


@pytest.fixture(scope="session")
def dense(build_in, tmp_path_factory):
    """Last token, then a dense layer: whoever pools its token states gets something else."""
    folder = tmp_path_factory.mktemp("dense")
    return build_in(folder / "model", pooling="lasttoken", behind=[Dense(32, 12), Normalize()]).eval()


@pytest.fixture(scope="session")
def dense_export(dense, tmp_path_factory):
    folder = tmp_path_factory.mktemp("dense-export") / "export"
    export_onnx(dense, folder, show_progress=False)
    return folder


@pytest.fixture(scope="session", params=["minilm", "dense"])
def served(request):
    """A model and its export."""
    if request.param == "minilm":
        return request.getfixturevalue("minilm"), request.getfixturevalue("minilm_export")[0]
    return request.getfixturevalue("dense"), request.getfixturevalue("dense_export")


@pytest.fixture(scope="session", params=["minilm", "dense"])
def served_lowered(request, tmp_path_factory):
    """An export in every precision, and its file in each by the precision's name."""
    model = request.getfixturevalue(request.param)
    folder = tmp_path_factory.mktemp(f"{request.param}-lowered") / "export"
    export_onnx(model, folder, precisions=list(PRECISIONS), show_progress=False)
    return folder, {name: f"onnx/model{precision.suffix}.onnx" for name, precision in PRECISIONS.items()}


@pytest.fixture
def assert_vectors(record_property, capsys, request):
    """``assert_vectors(found, expected)``: equal to 1e-5; the difference is printed whatever pytest captures."""

    def check(found, expected, way="", tolerance=1e-5):
        difference = float(np.abs(np.asarray(found) - expected).max())
        record_property(way or "max difference", difference)
        with capsys.disabled():
            print(f"\n{request.node.name} {way}: {difference:.1e}", end="")
        assert np.shape(found) == expected.shape
        assert difference <= tolerance, f"{way}: {difference}"

    return check
