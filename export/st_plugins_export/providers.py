"""ONNX Runtime's execution providers under short names, and the proof that the one asked for is the one that runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from st_plugins.errors import ProviderError

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
_SUFFIX = "ExecutionProvider"
_INSTALL_CUDA = 'For CUDA run: pip uninstall -y onnxruntime; pip install "st-plugins[onnx-gpu]"'
# Tokens per batch. A CPU core has its cache to keep, a GPU thousands of cores to feed.
_TOKEN_BUDGETS = {CPU: 512, CUDA: 16_384}
_OTHER_TOKEN_BUDGET = 4096
# Without the first, float32 products keep 10 bits of 23. The second asks for what is needed, not for twice as much.
_CUDA_OPTIONS = {"use_tf32": "0", "arena_extend_strategy": "kSameAsRequested"}


@dataclass(frozen=True)
class Provider:
    """One execution provider, by ONNX Runtime's name.

    Args:
        name: As ``onnxruntime.get_available_providers`` spells it.
        device: Which of several, from 0; None where nobody asked.

    Example:
        >>> Provider("CUDAExecutionProvider", 1).entry
        ('CUDAExecutionProvider', {'use_tf32': '0', 'arena_extend_strategy': 'kSameAsRequested', 'device_id': '1'})
    """

    name: str
    device: int | None = None

    @property
    def entry(self) -> tuple[str, dict[str, str]]:
        """What ``onnxruntime.InferenceSession`` takes."""
        options = dict(_CUDA_OPTIONS) if self.name == CUDA else {}
        if self.device is not None:
            options["device_id"] = str(self.device)
        return self.name, options

    @property
    def bound_to(self) -> str | None:
        """Where tensors are kept between graph and device, by IO binding; None where there is nothing to gain."""
        return "cuda" if self.name == CUDA else None

    @property
    def token_budget(self) -> int:
        """Tokens per batch, padding included, that suit it."""
        return _TOKEN_BUDGETS.get(self.name, _OTHER_TOKEN_BUDGET)


def wanted_providers(onnxruntime: Any, wanted: str | Sequence[str] | None) -> tuple[Provider, ...]:
    """The providers that an argument means, in order of preference.

    Args:
        onnxruntime: The package.
        wanted: "cuda", "cuda:1", "CUDAExecutionProvider", or a list of such; None for the CPU.

    Returns:
        tuple: At least one.

    Raises:
        ProviderError: If one is not part of the installed onnxruntime. Lists those that are.

    Example:
        >>> import onnxruntime
        >>> wanted_providers(onnxruntime, "cpu")
        (Provider(name='CPUExecutionProvider', device=None),)
    """
    names = [CPU] if wanted is None else [wanted] if isinstance(wanted, str) else list(wanted)
    available = {_short(name): name for name in onnxruntime.get_available_providers()}
    if not names:
        raise ProviderError(f"providers must name at least one of {list(available)}, got none.")
    found = []
    for name in names:
        base, _, device = name.partition(":") if isinstance(name, str) else ("", "", "")
        if _short(base) not in available or (":" in name and not device.isdecimal()):
            hint = "" if CUDA in available.values() else f" {_INSTALL_CUDA}"
            raise ProviderError(
                f"providers must be among those of the installed onnxruntime {onnxruntime.__version__}, "
                f"{list(available)}, got {name!r}.{hint}"
            )
        found.append(Provider(available[_short(base)], int(device) if device else None))
    if any(provider.name == CUDA for provider in found) and hasattr(onnxruntime, "preload_dlls"):
        onnxruntime.preload_dlls()  # finds the CUDA libraries that pip installed, torch's among them
    return tuple(found)


def check_started(onnxruntime: Any, session: Any, providers: Sequence[Provider]) -> None:
    """Raise :class:`~st_plugins.errors.ProviderError` unless the first choice runs.

    ONNX Runtime says in its log that a provider does not start, and goes on without it.
    """
    running = session.get_providers()
    first = providers[0].name
    if first not in running:
        hint = ""
        if first == CUDA:
            hint = (
                f" onnxruntime {onnxruntime.__version__} was built for CUDA "
                f"{getattr(onnxruntime, 'cuda_version', '') or '(see its documentation)'} with cuDNN 9: check the "
                f"driver (nvidia-smi) and these libraries. {_INSTALL_CUDA}"
            )
        raise ProviderError(
            f"{_short(first)!r} was asked for and did not start; only {[_short(name) for name in running]} did. "
            f"ONNX Runtime has logged why.{hint}"
        )


def _short(name: str) -> str:
    return name.removesuffix(_SUFFIX).lower()
