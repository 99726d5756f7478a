"""What the tests of both forms of latent attention pooling share."""

import numpy as np
import pytest
import torch
from torch import nn

RIGHT = torch.tensor([[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1], [1, 0, 0, 0, 0, 0]])
LEFT = RIGHT.flip(1)


def tracing(test):
    """The exporter by tracing, which st_plugins_export uses, warns that there is another."""
    for warning in (
        "ignore:You are using the legacy TorchScript:DeprecationWarning",
        "ignore:The feature will be removed:DeprecationWarning",
        "ignore::torch.jit.TracerWarning",
    ):
        test = pytest.mark.filterwarnings(warning)(test)
    return test


def randomised(pooling):
    """Norms and biases too, so that leaving one out cannot go unnoticed."""
    for parameter in pooling.parameters():
        if parameter.ndim == 1:
            nn.init.uniform_(parameter, 0.3, 1.5)
    return pooling


def pool(pooling, tokens, mask=None, **features):
    features = {"token_embeddings": tokens, **features}
    if mask is not None:
        features["attention_mask"] = mask
    return pooling(features)["sentence_embedding"]


class _Positional(nn.Module):
    def __init__(self, pooling):
        super().__init__()
        self.pooling = pooling

    def forward(self, tokens, mask):
        return pool(self.pooling, tokens, mask)


def check_export(pooling, file):
    """Traced with two texts of three tokens, run with three of six, one of them empty."""
    pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    axes = {"tokens": {0: "batch", 1: "tokens"}, "mask": {0: "batch", 1: "tokens"}}
    example = (torch.randn(2, 3, 6), torch.tensor([[1, 1, 1], [1, 1, 0]]))
    torch.onnx.export(
        _Positional(pooling), example, file, dynamo=False, opset_version=17, input_names=list(axes), dynamic_axes=axes
    )
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    tokens, mask = torch.randn(3, 6, 6), RIGHT.clone()
    mask[2] = 0
    with torch.no_grad():
        expected = pool(pooling, tokens, mask)
    (out,) = session.run(None, {"tokens": tokens.numpy(), "mask": mask.numpy()})
    assert np.allclose(out, expected, atol=1e-5)
    assert not out[2].any()
