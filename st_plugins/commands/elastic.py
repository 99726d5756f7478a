"""``st-plugins elastic``: a model that runs to any layer and can be cut to any dim, made good at it by your texts."""

import copy
import json
import tempfile
from typing import Annotated, Any

import typer

from st_plugins.commands.option_types import Column, Device, Json, ModelFolder, parse_size
from st_plugins.errors import InputError

HELP = """
Make a model elastic. With --texts, shallow layers are mapped to where the full depth puts a text: no labels, a minute.
With --pairs it is trained at the sizes you name, with a copy of itself as teacher. Both together are best.

\b
Examples:
  st-plugins elastic sentence-transformers/all-MiniLM-L6-v2 minilm-elastic --texts corpus.txt
  st-plugins elastic my-model my-elastic --texts corpus.txt --pairs pairs.jsonl --size 2x64 --size 3x128

The columns of --pairs are an anchor, its positive and, if there are more, negatives, in this order.
"""


def elastic_command(
    model: ModelFolder,
    output: Annotated[str, typer.Argument(metavar="OUTPUT", help="A new folder.")],
    texts: Annotated[str | None, typer.Option(help="Texts like those to be embedded; thousands.")] = None,
    text: Column = "text",
    pairs: Annotated[str | None, typer.Option(help="Parquet, JSONL, CSV or TSV to train on.")] = None,
    size: Annotated[
        list[str] | None, typer.Option(metavar="LAYERxDIM", help="To train, for instance 3x128; may be repeated.")
    ] = None,
    epochs: Annotated[float, typer.Option(help="Passes over the pairs.")] = 1.0,
    batch_size: Annotated[int, typer.Option(help="Pairs per step: every other one is a negative.")] = 64,
    mini_batch_size: Annotated[
        int | None, typer.Option(help="Texts in memory at once, by gradient caching; left out, all of them.")
    ] = None,
    learning_rate: Annotated[float, typer.Option(help="At its highest.")] = 2e-5,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """What ``st-plugins elastic`` does with its arguments; :data:`HELP` describes it."""
    if texts is None and pairs is None:
        raise InputError("Either --texts or --pairs must be given, got neither: an untrained model cannot be cut well.")
    if size and pairs is None:
        raise InputError("--size is what --pairs train, and there are none. Name a file with --pairs.")
    sizes = [parse_size(one) for one in size or ()] or None

    import st_plugins  # only now: --help needs none of it
    from st_plugins.commands.saved_models import check_new_folder, save_new
    from st_plugins.commands.text_files import read_table, read_texts
    from st_plugins.evaluation import write_model_card
    from st_plugins.modules import ElasticTransformer

    check_new_folder(output)
    corpus = None if texts is None else read_texts(texts, text)
    table = None if pairs is None else _pairs(read_table(pairs, texts=None), pairs)
    loaded = st_plugins.load(model, device=device)
    found = loaded if isinstance(loaded[0], ElasticTransformer) else st_plugins.elastic(loaded)
    if corpus is not None:
        found = st_plugins.align_layers(found, corpus, show_progress=not as_json)
    if table is not None:
        options = {
            "num_train_epochs": epochs,
            "per_device_train_batch_size": batch_size,
            "learning_rate": learning_rate,
            "disable_tqdm": as_json,
        }
        _train(found, table, sizes, mini_batch_size, options)
    save_new(found, output)
    write_model_card(found, output)
    full = (found[0].depth, found.get_embedding_dimension())
    trained = sorted({full, *(tuple(one) for one in found[0].sizes)})
    if as_json:
        typer.echo(json.dumps({"folder": output, "sizes": trained, "fingerprint": st_plugins.fingerprint(found)}))
    else:
        shown = ", ".join(f"{layer}x{dim}" for layer, dim in trained)
        typer.echo(f"{output}: sizes {shown}")


def _pairs(table: Any, file: str) -> Any:
    if len(table.column_names) < 2:
        raise InputError(
            f"{file} must have two columns or more, anchor and positive first, got "
            f"{', '.join(map(repr, table.column_names))}."
        )
    return table


def _train(model: Any, table: Any, sizes: Any, mini_batch_size: int | None, options: dict[str, Any]) -> None:
    from st_plugins.losses import ElasticLoss

    try:
        from datasets import Dataset
    except ModuleNotFoundError:
        from st_plugins.errors import MissingExtraError

        raise MissingExtraError("datasets", "train") from None
    import torch
    from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    teacher = copy.deepcopy(model)
    loss = ElasticLoss(
        model, MultipleNegativesRankingLoss(model), sizes=sizes, teacher=teacher, mini_batch_size=mini_batch_size
    )
    with tempfile.TemporaryDirectory() as scratch:
        arguments = SentenceTransformerTrainingArguments(
            output_dir=scratch,
            save_strategy="no",
            report_to="none",
            warmup_steps=_steps(table.num_rows, options) // 10,
            batch_sampler="no_duplicates",
            dataloader_pin_memory=torch.cuda.is_available(),  # where there is no GPU, torch warns
            **options,
        )
        trainer = SentenceTransformerTrainer(model=model, args=arguments, train_dataset=Dataset(table), loss=loss)
        trainer.train()


def _steps(rows: int, options: dict[str, Any]) -> int:
    return int(-(-rows // options["per_device_train_batch_size"]) * options["num_train_epochs"])
