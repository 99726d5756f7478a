"""``st-plugins calibrate``: a policy by which texts leave early, with what your texts prove about it."""

import json
from typing import Annotated, Any

import typer

from st_plugins.commands.option_types import Column, Device, Json, ModelFolder

HELP = """
Find how early texts may leave a model at a risk you accept, prove it on texts of yours, and save it with the model.

\b
Examples:
  st-plugins calibrate minilm-elastic --texts queries.txt --name balanced --alpha 0.1 --documents corpus.txt
  st-plugins calibrate minilm-elastic --texts queries.txt --name near --alpha 0.05 --output minilm-near

The risk is 1 - cosine with the full depth. With --documents it is the share of a query's nearest documents that leaving
early would miss. Take hundreds of texts, drawn as those that will be served.
"""


def calibrate_command(
    model: ModelFolder,
    texts: Annotated[str, typer.Option(help="Texts like those that will leave early; hundreds.")],
    name: Annotated[str, typer.Option(help="Of the policy, for encode(texts, exit=NAME).")],
    alpha: Annotated[float, typer.Option(help="The risk that is accepted, between 0 and 1.")],
    delta: Annotated[float, typer.Option(help="The probability of breaking the promise.")] = 0.1,
    documents: Annotated[str | None, typer.Option(help="Documents that the texts are queries for.")] = None,
    nearest: Annotated[int, typer.Option(help="How many nearest documents count.")] = 10,
    text: Column = "text",
    output: Annotated[str | None, typer.Option(help="A new folder; left out, the policy goes into MODEL.")] = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """What ``st-plugins calibrate`` does with its arguments; :data:`HELP` describes it."""
    import st_plugins  # only now: --help needs none of it
    from st_plugins.commands.saved_models import check_new_folder, save_new, save_over
    from st_plugins.commands.text_files import read_texts
    from st_plugins.evaluation import write_model_card
    from st_plugins.exits import calibrate_exits

    if output is not None:
        check_new_folder(output)
    drawn = read_texts(texts, text)
    corpus = None if documents is None else read_texts(documents, text)
    loaded = st_plugins.load(model, device=device)
    risk, prompt = ("cosine", None) if corpus is None else _overlap(loaded, corpus, nearest, not as_json)
    policy = calibrate_exits(loaded, drawn, name=name, alpha=alpha, delta=delta, risk=risk, prompt=prompt)
    folder = output or model
    if output is None:
        save_over(loaded, folder)
    else:
        save_new(loaded, folder)
    write_model_card(loaded, folder)
    if as_json:
        typer.echo(json.dumps({"folder": folder, "name": name, **policy.as_dict()}))
    else:
        typer.echo(f"{folder}: policy {name!r}\n{_promise(policy)}")


def _overlap(model: Any, corpus: list[str], nearest: int, show_progress: bool) -> tuple[Any, str]:
    """The risk of queries, and the prompt that ``encode_query`` gives them."""
    from st_plugins.exits import OverlapRisk
    from st_plugins.usual_prompts import prompt_of

    vectors = model.encode_document(corpus, show_progress_bar=show_progress)
    return OverlapRisk(vectors, k=nearest), prompt_of(model, "query")


def _promise(policy: Any) -> str:
    proof = policy.certificate
    rates = ", ".join(
        f"{layer}: {rate:.0%}" for layer, rate in zip(policy.layers, proof.exit_rates, strict=True) if rate
    )
    return (
        f"{proof.risk} at most {proof.alpha:g} with a probability of {1 - proof.delta:g}; {proof.mean_loss:.4f} on the "
        f"{proof.n} distinct texts\n"
        f"mean layer {proof.expected_layers:.2f} of {policy.layers[-1]}; texts leave at {rates}"
    )
