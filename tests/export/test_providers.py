"""Short names, what is missing, and what was asked for but did not start."""

from types import SimpleNamespace

import onnxruntime
import pytest

from st_plugins.errors import ProviderError
from st_plugins_export import OnnxEncoder
from st_plugins_export.providers import CPU, CUDA, Provider, check_started, wanted_providers

INSTALL = r'run: pip uninstall -y onnxruntime; pip install "st-plugins\[onnx-gpu\]"'


def with_cuda(preloaded):
    """An onnxruntime for CUDA, as far as choosing goes."""
    return SimpleNamespace(
        __version__="1.31.1",
        cuda_version="13.0",
        get_available_providers=lambda: ["TensorrtExecutionProvider", CUDA, CPU],
        preload_dlls=lambda: preloaded.append(True),
    )


@pytest.mark.parametrize("wanted", [None, "cpu", "CPU", [CPU], ["cpu"], ("CPUExecutionProvider",)])
def test_the_cpu_by_any_name(wanted, exported):
    assert wanted_providers(onnxruntime, wanted) == (Provider(CPU),)
    session = OnnxEncoder(exported, providers=wanted)._opened
    assert session.session(session.manifest.full).get_providers() == [CPU]


def test_cuda_by_any_name_and_number():
    preloaded = []
    for wanted in ("cuda", "CUDA", CUDA, ["cuda"]):
        assert wanted_providers(with_cuda(preloaded), wanted) == (Provider(CUDA),)
    assert len(preloaded) == 4
    assert wanted_providers(with_cuda([]), ["cuda:1", "cpu"]) == (Provider(CUDA, 1), Provider(CPU))
    assert wanted_providers(with_cuda([]), "tensorrt")[0].name == "TensorrtExecutionProvider"


def test_cuda_libraries_are_loaded_only_for_cuda():
    preloaded = []
    wanted_providers(with_cuda(preloaded), "cpu")
    assert preloaded == []


def test_products_in_float32_keep_their_bits():
    name, options = Provider(CUDA, 1).entry
    assert (name, options["use_tf32"], options["device_id"]) == (CUDA, "0", "1")
    assert "device_id" not in Provider(CUDA).entry[1]
    assert Provider(CPU).entry == (CPU, {})


def test_tensors_stay_on_a_device_and_nowhere_else():
    assert (Provider(CUDA, 1).bound_to, Provider(CPU).bound_to) == ("cuda", None)


def test_the_token_budget_is_that_of_the_hardware(exported):
    assert Provider(CPU).token_budget == 512
    assert Provider(CUDA).token_budget > Provider("OpenVINOExecutionProvider").token_budget > 512
    assert OnnxEncoder(exported)._token_budget == 512
    assert OnnxEncoder(exported, token_budget=40)._token_budget == 40


@pytest.mark.parametrize("wanted", ["moon", ["cpu", "MoonExecutionProvider"], "cpu:x", [3], "cuda"])
def test_what_is_not_installed_is_refused_with_what_is_and_the_command(exported, wanted):
    with pytest.raises(ProviderError, match=rf"\[.*'cpu'\], got .*{INSTALL}"):
        OnnxEncoder(exported, providers=wanted)


def test_a_wrong_name_beside_cuda_needs_no_installation():
    with pytest.raises(ProviderError, match=r"\['tensorrt', 'cuda', 'cpu'\], got 'moon'\.$"):
        wanted_providers(with_cuda([]), "moon")


def test_none_at_all_is_refused():
    with pytest.raises(ProviderError, match=r"at least one of \[.*'cpu'\], got none"):
        wanted_providers(onnxruntime, [])


def test_nothing_takes_the_place_of_what_does_not_start(exported):
    opened = OnnxEncoder(exported)._opened
    session = opened.session(opened.manifest.full)  # on the CPU, as ONNX Runtime leaves it where CUDA does not start
    check_started(onnxruntime, session, [Provider(CPU)])
    with pytest.raises(ProviderError, match=r"'cuda' was asked for and did not start; only \['cpu'\].*CUDA 13.0.*pip"):
        check_started(with_cuda([]), session, [Provider(CUDA), Provider(CPU)])
    with pytest.raises(ProviderError, match=r"'openvino' was asked for.*has logged why\.$"):
        check_started(onnxruntime, session, [Provider("OpenVINOExecutionProvider")])
