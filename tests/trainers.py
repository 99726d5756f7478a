"""The ordinary trainer of sentence-transformers, on the CPU and without a sound."""

import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments

from loss_cases import ANCHORS, POSITIVES

PAIRS = {"anchor": ANCHORS, "positive": POSITIVES}


def without_dropout(module):
    """In place: the same batch gives the same loss in training too."""
    for part in module.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
        if hasattr(part, "dropout_prob"):  # transformers 4
            part.dropout_prob = 0.0


def quiet_trainer(
    model, loss, folder, columns=None, *, evaluator=None, data_collator=None, callbacks=None, **arguments
):
    """A trainer of these columns, or of the pairs of ``loss_cases``; ``arguments`` are those of a training."""
    usual = {"report_to": "none", "use_cpu": True, "save_strategy": "no", "disable_tqdm": True}
    return SentenceTransformerTrainer(
        model=model,
        args=SentenceTransformerTrainingArguments(
            str(folder), **{**usual, "dataloader_pin_memory": False, **arguments}
        ),
        train_dataset=Dataset.from_dict(PAIRS if columns is None else columns),
        loss=loss,
        evaluator=evaluator,
        data_collator=data_collator,
        callbacks=callbacks,
    )
