"""What folding latent attention pooling saves: at NV-Embed's width in torch, at a quarter of it in ONNX Runtime.

Five minutes on 2 idle cores, 6 GB of memory. Weights are random: time does not depend on them.
"""

import warnings
from pathlib import Path
from tempfile import TemporaryDirectory

import onnxruntime
import torch
from torch import Tensor, nn

from st_plugins.modules.latent_attention_pooling import LatentAttentionPooling
from timing import median_seconds, print_machine

ROUNDS = 3
TOKENS = (16, 128, 512)


def main() -> None:
    print_machine("torch", "onnxruntime")
    print("\nfolded against factored: times as fast, with the largest difference relative to the largest coordinate")
    with torch.no_grad():
        in_torch(LatentAttentionPooling(4096).eval())
        in_onnxruntime(LatentAttentionPooling(1024).eval())


def in_torch(pooling: LatentAttentionPooling) -> None:
    folded = pooling.fold()
    millions = [sum(parameter.numel() for parameter in module.parameters()) / 1e6 for module in (pooling, folded)]
    print(f"\ntorch, {pooling.embedding_dimension} wide: {millions[0]:.0f} M weights, folded {millions[1]:.0f} M")
    for count in TOKENS:
        tokens = torch.randn(1, count, pooling.embedding_dimension)
        runs = {
            "factored": lambda tokens=tokens: pool(pooling, tokens),
            "folded": lambda tokens=tokens: pool(folded, tokens),
            "factored attention": lambda tokens=tokens: pooling.cross_attention(tokens, pooling.latents[None]),
            "folded attention": lambda tokens=tokens: folded.attend(tokens),
        }
        seconds = median_seconds(runs, rounds=ROUNDS)
        whole = seconds["factored"] / seconds["folded"]
        attention = seconds["factored attention"] / seconds["folded attention"]
        difference = relative(pool(pooling, tokens), pool(folded, tokens))
        print(f"  {count:>5} tokens   all of it {whole:.1f}   the attention {attention:.1f}   ({difference:.0e})")


def in_onnxruntime(pooling: LatentAttentionPooling) -> None:
    print(f"\nONNX Runtime, {pooling.embedding_dimension} wide")
    with TemporaryDirectory() as folder:
        sessions = {
            name: session(module, Path(folder) / f"{name}.onnx")
            for name, module in (("factored", pooling), ("folded", pooling.fold()))
        }
    for count in TOKENS:
        tokens = torch.randn(1, count, pooling.embedding_dimension)
        runs = {
            name: lambda run=run, tokens=tokens: run.run(None, {"tokens": tokens.numpy()})
            for name, run in sessions.items()
        }
        seconds = median_seconds(runs, rounds=5 * ROUNDS)
        (expected,), (vector,) = (run() for run in runs.values())
        difference = relative(torch.from_numpy(expected), torch.from_numpy(vector))
        print(f"  {count:>5} tokens   all of it {seconds['factored'] / seconds['folded']:.1f}   ({difference:.0e})")


def pool(pooling: nn.Module, tokens: Tensor) -> Tensor:
    return pooling({"token_embeddings": tokens})["sentence_embedding"]


def relative(expected: Tensor, vector: Tensor) -> float:
    return float((vector - expected).abs().max() / expected.abs().max())


class Positional(nn.Module):
    """A pooling of bare tokens, as the exporter wants it."""

    def __init__(self, pooling: nn.Module) -> None:
        super().__init__()
        self.pooling = pooling

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (1, T, D) in, vectors (1, D) out."""
        return pool(self.pooling, tokens)


def session(pooling: nn.Module, file: Path) -> onnxruntime.InferenceSession:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Positional(pooling),
            (torch.randn(1, 3, pooling.embedding_dimension),),
            file,
            dynamo=False,
            opset_version=17,
            input_names=["tokens"],
            dynamic_axes={"tokens": {1: "count"}},
        )
    return onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])


if __name__ == "__main__":
    main()
