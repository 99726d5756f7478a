"""The policies of a model as a Markdown table, for its model card."""

from sentence_transformers import SentenceTransformer

from st_plugins.exit_policies import ExitPolicy
from st_plugins.exits.traces import first_module
from st_plugins.fingerprints import fingerprint


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
    policies = first_module(model).exit_policies.values()
    if not policies:
        return ""
    identity = fingerprint(model)
    rows = [
        "| exit | risk | promise | texts | mean loss | mean layer | exits |",
        "|---|---|---|---|---|---|---|",
        *(_row(policy, identity) for policy in policies),
    ]
    return "\n".join(rows)


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
