"""Calibration: the boldest threshold that texts of yours prove to be safe. Criteria are not trained here."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor

from st_plugins.errors import ExitError
from st_plugins.exit_criteria import Criterion, Saturation
from st_plugins.exit_policies import NEVER, Certificate, ExitPolicy
from st_plugins.exits.bounds import BOUNDS, PValue, fewest_texts, fixed_sequence
from st_plugins.exits.risks import Risk, losses_at_exits, risk_of
from st_plugins.exits.traces import Trace, distinct, exit_layers, trace
from st_plugins.fingerprints import fingerprint
from st_plugins.first_modules import elastic_transformer
from st_plugins.stages import check_stages
from st_plugins.weight_digests import weights_digest

# Fixed before any text is seen, or the guarantee is void. Dense near 1, where trained models have their cosines.
THRESHOLDS = (NEVER, *(1 - np.geomspace(1e-5, 0.1, 200)).tolist(), *np.linspace(0.898, -1.0, 950).tolist())


def calibrate_exits(
    model: SentenceTransformer,
    texts: Sequence[str],
    *,
    name: str,
    alpha: float,
    delta: float = 0.1,
    risk: str | Risk = "cosine",
    criterion: Criterion | None = None,
    bound: str = "hoeffding-bentkus",
    prompt_name: str | None = None,
    prompt: str | None = None,
    batch_size: int = 32,
) -> ExitPolicy:
    """Let texts leave as early as can be proved to keep the risk at most alpha, and keep that as a policy.

    The risk is the mean loss over all texts of the kind given. Thresholds are tested from "never leave early"
    downwards, in an order fixed beforehand; with l_i(t) the loss of text i if it leaves by threshold t::

        p(t) = p-value of "risk(t) > alpha" given l_1(t) ... l_n(t)
        policy = the last t before the first with p(t) > delta          P( risk(policy) > alpha ) <= delta

    What must hold for the promise: texts are drawn independently from what will be served, and have trained neither the
    model nor the gate. A text that comes twice counts once: the promise is about distinct texts. Another domain needs
    another calibration; :func:`~st_plugins.exits.check_drift` notices some such changes.

    Args:
        model: An elastic model trained at several layers; the policy is added to it and saved with it.
        texts: Hundreds; fewer than log(delta) / log(1 - alpha) can prove nothing.
        name: For ``model.encode(texts, exit=name)``.
        alpha: The risk that is accepted, in (0, 1).
        delta: The probability of breaking the promise, in (0, 1), over the draw of the texts.
        risk: "cosine" for 1 - cos(e_exit, e_full) cut to [0, 1]; :class:`~st_plugins.exits.OverlapRisk`; or any
            function of embeddings (N, D) as they leave and (N, D) in full that returns losses (N,) in [0, 1], each from
            its own row.
        criterion: :class:`~st_plugins.exits.Saturation` if None, or what
            :func:`~st_plugins.training.train_gates` made from other texts.
        bound: "hoeffding-bentkus"; "betting", tighter where losses vary little; or "hoeffding".
        prompt_name: As texts will be encoded, as for ``model.encode``.
        prompt: The same, in full.
        batch_size: Texts per batch.

    Returns:
        ExitPolicy: With its certificate, whose ``expected_layers`` is the full depth if nothing better could be proved.

    Raises:
        ExitError: If alpha, delta or bound are out of range, there are too few texts, or the risk is above alpha even
            at full depth.
        InputError: If texts are none.
        UnsupportedModelError, UntrainedSizeError: If the model has no exits, or cannot run in stages.

    References:
        Angelopoulos et al., *Learn then Test*, https://arxiv.org/abs/2110.01052, with fixed sequence testing; for early
        exits: Schuster et al., *Confident Adaptive Language Modeling*, https://arxiv.org/abs/2207.07061.

    Example:
        >>> model = st_plugins.elastic(SentenceTransformer("sentence-transformers/all-MiniLM-L6-v2"),
        ...     sizes=[(2, 384), (4, 384), (5, 384)])
        >>> texts = [f"text number {number}" for number in range(60)]
        >>> policy = calibrate_exits(model, texts, name="balanced", alpha=0.2)
        >>> policy.certificate.n, policy.certificate.p_value <= 0.1
        (60, True)
        >>> model.encode("A text", exit="balanced").shape
        (384,)
    """
    first = elastic_transformer(model, "exits")
    layers = exit_layers(model)
    criterion = Saturation() if criterion is None else criterion
    ExitPolicy(name, criterion, NEVER, layers)  # refuses names and criteria before anything is run
    risk_name, loss = risk_of(risk)
    p_value = _check(alpha, delta, bound)
    texts = distinct(texts)
    needed = fewest_texts(alpha, delta, p_value)
    if len(texts) < needed:
        raise ExitError(
            f"It takes at least {needed} distinct texts to prove a risk of at most {alpha} with delta={delta} by "
            f"{bound}, got {len(texts)}. Take more texts, or a larger alpha or delta."
        )
    check_stages(first.model, torch.tensor([[1, 2, 3, 2]], device=first.model.device))
    traced = trace(model, texts, prompt_name=prompt_name, prompt=prompt, batch_size=batch_size)
    losses = losses_at_exits(risk_name, loss, traced.embeddings)
    scores = traced.scores(criterion)
    threshold = choose_threshold(traced, scores, losses, alpha, delta, p_value)
    if threshold is None:
        raise ExitError(
            f"The risk must be shown to be at most {alpha} at full depth, but there {risk_name} has a mean of "
            f"{float(losses[-1].mean()):.4f} over {len(texts)} texts. Choose a larger alpha, or take more texts."
        )
    certificate = Certificate(
        risk=risk_name,
        alpha=float(alpha),
        delta=float(delta),
        n=len(texts),
        bound=bound,
        data=hashlib.sha256(json.dumps(sorted(texts)).encode()).hexdigest(),
        fingerprint=fingerprint(model, layer=layers[0]),  # the maps of layers are no part of the full depth's
        **_found(traced, traced.exits(scores, threshold), losses, lambda chosen: p_value(chosen, alpha)),
    )
    policy = ExitPolicy(name, criterion, threshold, layers, weights_digest(first.model), certificate)
    first.add_exit_policy(policy)
    return policy


def choose_threshold(
    traced: Trace, scores: Tensor, losses: Tensor, alpha: float, delta: float, p_value: PValue
) -> float | None:
    """The last of :data:`THRESHOLDS` that passes, in order.

    Args:
        traced: N texts at S exits.
        scores: (S - 1, N).
        losses: (S, N) in [0, 1].
        alpha: See :func:`calibrate_exits`.
        delta: See :func:`calibrate_exits`.
        p_value: From :mod:`st_plugins.exits.bounds`.

    Returns:
        float | None: None if not even the first passes.
    """
    last = fixed_sequence(_p_values(traced, scores, losses, alpha, p_value), delta)
    return None if last is None else THRESHOLDS[last]


def _p_values(traced: Trace, scores: Tensor, losses: Tensor, alpha: float, p_value: PValue) -> Iterator[float]:
    before, value = None, 1.0
    for threshold in THRESHOLDS:
        exits = traced.exits(scores, threshold)
        if before is None or not torch.equal(exits, before):
            value = p_value(_in_drawn_order(losses.gather(0, exits[None])[0]), alpha)
        before = exits
        yield value


def _found(traced: Trace, exits: Tensor, losses: Tensor, p_value: Callable[[np.ndarray], float]) -> dict[str, Any]:
    """What a certificate says about the texts where they leave at these exits, (N,)."""
    chosen = losses.gather(0, exits[None])[0]
    rates = [float((exits == index).double().mean()) for index in range(len(traced.layers))]
    return {
        "p_value": p_value(_in_drawn_order(chosen)),
        "mean_loss": float(chosen.mean()),
        "expected_layers": sum(rate * layer for rate, layer in zip(rates, traced.layers, strict=True)),
        "exit_rates": tuple(rates),
    }


def _in_drawn_order(losses: Tensor) -> np.ndarray:
    """Losses in an order that says nothing about them, whatever order the texts came in: bets need that."""
    return losses.numpy()[np.random.default_rng(0).permutation(len(losses))]


def _check(alpha: float, delta: float, bound: str) -> PValue:
    for name, value in (("alpha", alpha), ("delta", delta)):
        if not isinstance(value, int | float) or not 0 < value < 1:
            raise ExitError(f"{name} must be a number between 0 and 1, both excluded, got {value!r}.")
    if bound not in BOUNDS:
        raise ExitError(f"bound must be one of {sorted(BOUNDS)}, got {bound!r}.")
    return BOUNDS[bound]
