"""Promise tables of ``dynamic_exit.py``: what calibrated policies do on texts they were not calibrated on."""

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor

from exit_quality import mean_layer
from public_sets import Retrieval
from size_scores import ndcg_at_10
from st_plugins.errors import ExitError
from st_plugins.exit_criteria import Criterion
from st_plugins.exits import Gate, OverlapRisk, Saturation, calibrate_exits, encode_with_exits
from st_plugins.exits.bounds import BOUNDS
from st_plugins.exits.calibration import choose_threshold
from st_plugins.exits.risks import losses_at_exits, risk_of
from st_plugins.exits.traces import Trace, trace
from timing import median_seconds

ALPHAS = {"cosine": (0.05, 0.1, 0.2), "overlap@10": (0.2, 0.4, 0.6)}
DELTA = 0.1
SPLITS, CALIBRATED = 200, 500
TIMED, ROUNDS = 128, 5


class Certified:
    """Policies calibrated on some questions and measured on others; documents keep their full depth.

    Args:
        model: An elastic, trained model.
        texts: To calibrate with.
        held_out: To measure with.
    """

    def __init__(self, model: SentenceTransformer, texts: list[str], held_out: Retrieval) -> None:
        self.model = model
        self.texts = texts
        self.held_out = held_out
        self.documents = torch.from_numpy(model.encode(held_out.documents))
        self.full = torch.from_numpy(model.encode(held_out.questions))

    def table(self, gate: Gate) -> str:
        """Every criterion, risk and alpha."""
        rows = [
            f"\nCertified with delta = {DELTA:g} on {len(self.texts)} questions, measured on "
            f"{len(self.held_out.questions)} others, whose nDCG@10 in full depth is {self._score(self.full):.1f}; "
            "time of `encode` at batch 32 in times of the full depth's\n",
            "| criterion | risk | alpha | its mean loss | held out | mean layers | nDCG@10 | time |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for name, criterion in {"saturation": Saturation(), "gate": gate}.items():
            for risk in ("cosine", OverlapRisk(self.documents, 10)):
                title = risk_of(risk)[0]
                for alpha in ALPHAS[title]:
                    rows.append(
                        f"| {name} | {title} | {alpha} | " + " | ".join(self._row(criterion, risk, alpha)) + " |"
                    )
        return "\n".join(rows)

    def _row(self, criterion: Criterion, risk: str | OverlapRisk, alpha: float) -> tuple[str, ...]:
        options = {"name": "certified", "alpha": alpha, "delta": DELTA, "risk": risk, "criterion": criterion}
        try:
            policy = calibrate_exits(self.model, self.texts, **options)
        except ExitError:
            return ("nothing provable", *[""] * 4)
        questions = self.held_out.questions
        vectors, layers = encode_with_exits(self.model, questions, exit="certified")
        early = torch.from_numpy(vectors)
        runs = {
            "full": lambda: self.model.encode(questions[:TIMED]),
            "early": lambda: self.model.encode(questions[:TIMED], exit="certified"),
        }
        seconds = median_seconds(runs, rounds=ROUNDS)
        return (
            f"{policy.certificate.mean_loss:.3f}",
            f"{float(risk_of(risk)[1](early, self.full).mean()):.3f}",
            f"{layers.mean():.2f}",
            f"{self._score(early):.1f}",
            f"{seconds['early'] / seconds['full']:.2f}",
        )

    def _score(self, questions: Tensor) -> float:
        return ndcg_at_10(questions, self.documents, self.held_out.relevant, questions.shape[1])


def violation_table(model: SentenceTransformer, gate: Gate, squad: Retrieval) -> str:
    """How often a calibration on some questions breaks its promise on the others, over random splits."""
    traced = trace(model, list(dict.fromkeys(squad.questions)))
    documents = model.encode(squad.documents)
    others = traced.embeddings.shape[1] - CALIBRATED
    rows = [
        f"\nCalibrated on {CALIBRATED} questions, {SPLITS} random splits: share with a mean loss above alpha on the "
        f"other {others}, where at most {DELTA:g} is promised of all questions\n",
        "| criterion | risk | alpha | bound | above alpha | nothing provable | mean layers |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, criterion in {"saturation": Saturation(), "gate": gate}.items():
        scores = traced.scores(criterion)
        for risk in ("cosine", OverlapRisk(documents, 10)):
            title, loss = risk_of(risk)
            losses = losses_at_exits(title, loss, traced.embeddings)
            alpha = ALPHAS[title][1]
            for bound in BOUNDS:
                cells = broken_promises(traced, scores, losses, alpha, bound)
                rows.append(f"| {name} | {title} | {alpha} | {bound} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def broken_promises(traced: Trace, scores: Tensor, losses: Tensor, alpha: float, bound: str) -> tuple[str, str, str]:
    """Over splits: share of broken promises, share without a proof, mean layer on the held-out texts."""
    generator = np.random.default_rng(0)
    broken, unproved, layers = 0, 0, []
    for _ in range(SPLITS):
        order = torch.from_numpy(generator.permutation(scores.shape[1]))
        some, others = order[:CALIBRATED], order[CALIBRATED:]
        threshold = choose_threshold(traced, scores[:, some], losses[:, some], alpha, DELTA, BOUNDS[bound])
        if threshold is None:
            unproved += 1
            continue
        exits = traced.exits(scores[:, others], threshold)
        broken += bool(losses[:, others].gather(0, exits[None]).mean() > alpha)
        layers.append(mean_layer(traced, exits))
    return f"{broken / SPLITS:.3f}", f"{unproved / SPLITS:.2f}", f"{np.mean(layers):.2f}" if layers else ""
