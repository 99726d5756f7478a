"""``python -m st_plugins_export MODEL FOLDER [--size 3x128 ...] [--exit fast ...]``: export and print the report."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from st_plugins.errors import StPluginsError
from st_plugins_export.manifest import LAYOUTS

_CHOICES: dict[str, bool | str] = {"auto": "auto", "yes": True, "no": False}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: Without the name of the program; None for those of this process.

    Returns:
        int: The exit code, 1 if the export was refused.
    """
    options = _parser().parse_args(arguments)
    import st_plugins  # only now: it takes seconds, and --help needs none of it
    from st_plugins_export import check_parity, export_onnx

    try:
        model = st_plugins.load(options.model)
        if options.check:
            report = check_parity(model, options.folder, tolerance=options.tolerance)
        else:
            report = export_onnx(
                model,
                options.folder,
                sizes=options.sizes,
                exits=options.exits,
                layer_per_text=options.layer_per_text,
                layout=options.layout,
                packed=_CHOICES[options.packed],
                external_data=_CHOICES[options.external_data],
                precisions=options.precisions,
                opset=options.opset,
                tolerance=options.tolerance,
            )
    except (StPluginsError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    sys.stdout.write(f"{report}\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m st_plugins_export", description="Export a model, whole, to ONNX.")
    parser.add_argument("model", metavar="MODEL", help="a model folder, or the id of a model on the hub")
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="where to; an earlier export is replaced")
    parser.add_argument(
        "--size",
        dest="sizes",
        metavar="LAYERxDIM",
        type=_parse_size,
        action="append",
        default=[],
        help="a smaller size of an elastic model, for instance 3x128; may be repeated",
    )
    parser.add_argument(
        "--exit",
        dest="exits",
        metavar="NAME",
        action="append",
        default=[],
        help="an exit policy of an elastic model, by which texts leave early; may be repeated",
    )
    parser.add_argument(
        "--layer-per-text", action="store_true", help="also a graph that is told the layer of each text of a batch"
    )
    parser.add_argument(
        "--layout",
        choices=LAYOUTS,
        default=LAYOUTS[0],
        help="what last_hidden_state holds: the sentence embedding at each token, right whoever pools it (portable, "
        "the default), or what the transformer gave (tokens)",
    )
    parser.add_argument(
        "--packed",
        choices=tuple(_CHOICES),
        default="auto",
        help="compute real tokens only, though batches are padded: every graph that keeps its values so (auto, the "
        "default), every graph or no export (yes), none (no)",
    )
    parser.add_argument(
        "--external-data",
        choices=tuple(_CHOICES),
        default="auto",
        help="weights in one file beside the graphs, which all sizes share; auto (the default): only over 2 GiB",
    )
    parser.add_argument(
        "--precision",
        dest="precisions",
        metavar="NAME",
        action="append",
        default=[],
        help="write every graph in this precision too: fp16, int8, int8-blockwise; may be repeated",
    )
    parser.add_argument("--opset", type=int, default=17, help="ONNX opset of the graphs (default: 17)")
    parser.add_argument("--check", action="store_true", help="write nothing; compare the export in FOLDER with MODEL")
    parser.add_argument("--tolerance", type=float, default=1e-5, help="largest difference from torch (default: 1e-05)")
    return parser


def _parse_size(text: str) -> tuple[int, int]:
    layer, _, dim = text.partition("x")
    if not (layer.isdecimal() and dim.isdecimal()):
        raise argparse.ArgumentTypeError(f"a size looks like 3x128 (layer x dim), got {text!r}")
    return int(layer), int(dim)


if __name__ == "__main__":
    sys.exit(main())
