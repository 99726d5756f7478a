"""The policies of a model as a Markdown table, for its model card. They are calibrated elsewhere."""

from pathlib import Path

from sentence_transformers import SentenceTransformer

from st_plugins.card_sections import write_section
from st_plugins.exit_policies import ExitPolicy
from st_plugins.fingerprints import fingerprint
from st_plugins.first_modules import elastic_transformer

_SECTION = """\
## Dynamic Exits

With `model.encode(texts, exit="...")` every text leaves at the layer it needs. The promise is about texts drawn as
those of the calibration were: their mean loss against the full depth, from 0 to 1, is at most the figure given, with
the probability P over the draw of the calibration.

{table}
"""


def policy_table(model: SentenceTransformer) -> str:
    """What each policy promises, and whether that is still about this model.

    Args:
        model: An elastic model.

    Returns:
        str: Markdown, one row per policy; "" if there are none.

    Raises:
        UnsupportedModelError: If the model is not elastic.

    Example:
        >>> policy_table(st_plugins.load("minilm-elastic"))
        ''
    """
    policies = elastic_transformer(model, "a table of policies").exit_policies.values()
    if not policies:
        return ""
    identities = {layer: fingerprint(model, layer=layer) for layer in {policy.layers[0] for policy in policies}}
    rows = [
        "| exit | risk | promise | texts | mean loss | mean layer | exits |",
        "|---|---|---|---|---|---|---|",
        *(_row(policy, identities[policy.layers[0]]) for policy in policies),
    ]
    return "\n".join(rows)


def write_policy_table(model: SentenceTransformer, folder: str | Path) -> None:
    """Put the policies of a model into the model card of a folder it was saved to.

    sentence-transformers writes the card from a template of its own, which has no place for it, and in every save anew:
    call this after ``save_pretrained``. ``push_to_hub`` writes another card; upload the folder instead.

    Args:
        model: The elastic model that was saved.
        folder: Its folder. The section goes to the end of ``README.md``, or to where it was written before; without
            policies it goes away. All else in the card stays as it is.

    Raises:
        InputError: If the folder has no ``README.md``.
        UnsupportedModelError: If the model is not elastic.

    Example:
        >>> model = st_plugins.load("minilm-elastic")
        >>> from st_plugins.exits import Saturation
        >>> model[0].add_exit_policy(ExitPolicy("mine", Saturation(), 0.98, (2, 4, 6)))
        >>> model.save_pretrained("with-exits")
        >>> write_policy_table(model, "with-exits")
        >>> "| `mine` |" in Path("with-exits/README.md").read_text()
        True
    """
    table = policy_table(model)
    write_section(folder, "dynamic exits", _SECTION.format(table=table) if table else "")


def _row(policy: ExitPolicy, identity: str) -> str:
    proof = policy.certificate
    name = "`" + policy.name.replace("|", "\\|") + "`"
    if proof is None:
        return f"| {name} | | none | | | | {', '.join(map(str, policy.layers))} |"
    promise = f"at most {proof.alpha:g}, P >= {1 - proof.delta:g}"
    if proof.fingerprint != identity:
        promise = "void: the model has changed since"
    rates = zip(policy.layers, proof.exit_rates, strict=True)
    exits = ", ".join(f"{layer}: {100 * rate:.0f} %" for layer, rate in rates)
    risk = proof.risk.replace("|", "\\|")
    return (
        f"| {name} | {risk} | {promise} | {proof.n} | {proof.mean_loss:.4f} | "
        f"{proof.expected_layers:.2f} of {policy.layers[-1]} | {exits} |"
    )
