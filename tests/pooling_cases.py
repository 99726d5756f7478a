"""What the tests of several poolings do alike: padded batches, a graph, a few steps of training."""

import warnings

import pytest
import torch
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

from loss_cases import ANCHORS, batch
from trainers import quiet_trainer, without_dropout


def padded(texts, side="right", filling=0.0, length=None):
    """Tensors (T_i, D) as one batch (B, T, D) with its mask, padding on one side or on ``"both"``."""
    longest = length or max(len(text) for text in texts)
    tokens = torch.full((len(texts), longest, texts[0].shape[-1]), filling, dtype=texts[0].dtype)
    mask = torch.zeros(len(texts), longest, dtype=torch.long)
    for row, text in enumerate(texts):
        room = longest - len(text)
        start = {"right": 0, "left": room, "both": room // 2}[side]
        tokens[row, start : start + len(text)] = text
        mask[row, start : start + len(text)] = 1
    return tokens, mask


def flattened(texts):
    """The same texts as one row, with their boundaries."""
    ends = torch.tensor([0, *(len(text) for text in texts)]).cumsum(0).to(torch.int32)
    return torch.cat(texts)[None], ends


def graph_outputs(wrapper, traced, fed, file):
    """What onnxruntime computes for ``fed`` with the graph of ``wrapper``, traced on ``traced``; tensors by name.

    Axes 0 and 1 of every input, batch and tokens, are left open.
    """
    onnxruntime = pytest.importorskip("onnxruntime")
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            wrapper.eval(),
            tuple(traced.values()),
            str(file),
            dynamo=False,
            opset_version=17,
            input_names=list(traced),
            output_names=["sentence_embedding"],
            dynamic_axes={name: {0: "batch", 1: "tokens"} for name in traced} | {"sentence_embedding": {0: "batch"}},
        )
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {name: value.numpy() for name, value in fed.items()})[0])


def losses_around_training(model, folder, learning_rate, steps=12):
    """Contrastive loss of one batch of pairs before and after some steps of the ordinary trainer on it."""
    without_dropout(model)
    loss = MultipleNegativesRankingLoss(model)
    options = {"max_steps": steps, "learning_rate": learning_rate, "per_device_train_batch_size": len(ANCHORS)}
    trainer = quiet_trainer(model, loss, folder / "run", **options)

    def value():
        model.eval()
        with torch.no_grad():
            return loss(batch(model), None).item()

    before = value()
    trainer.train()
    return before, value()
