"""Fuses a BERT graph with ONNX Runtime's own offline optimizer and makes it float16: what optimum calls level O4.

For comparison only; our export does not use it. A process of its own, as the optimizer's package may belong to another
onnxruntime than the one that runs the graph::

    python ort_optimizer.py model.onnx optimized.onnx --heads 12 --hidden 384
"""

import argparse

from onnxruntime.transformers.fusion_options import FusionOptions
from onnxruntime.transformers.optimizer import optimize_model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source")
    parser.add_argument("target")
    parser.add_argument("--heads", type=int, required=True)
    parser.add_argument("--hidden", type=int, required=True)
    parser.add_argument("--float32", action="store_true")
    arguments = parser.parse_args()
    # The session does what levels 2 and 99 would add when it opens the graph: it runs at the highest level anyway.
    model = optimize_model(
        arguments.source,
        "bert",
        num_heads=arguments.heads,
        hidden_size=arguments.hidden,
        optimization_options=FusionOptions("bert"),
        opt_level=0,
    )
    if not arguments.float32:
        model.convert_float_to_float16(keep_io_types=True)
    model.save_model_to_file(arguments.target)
    print({name: count for name, count in model.get_fused_operator_statistics().items() if count})


if __name__ == "__main__":
    main()
